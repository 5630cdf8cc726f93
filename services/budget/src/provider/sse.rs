//! Server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), read
//! from pieces of any size. Pure; memory is bounded.

/// Longest event; a longer one is an error.
const LONGEST_EVENT: usize = 1024 * 1024;

/// Puts events together.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Option<String>,
    after_return: bool,
}

/// An event is too long to be one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Events {
    /// Takes more bytes; gives the data of each event that they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut complete = Vec::new();
        for byte in bytes {
            // A line ends with LF, CR or CR LF.
            let skip = self.after_return && *byte == b'\n';
            self.after_return = *byte == b'\r';
            match byte {
                _ if skip => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    self.end_line(&line, &mut complete);
                }
                other => self.line.push(*other),
            }
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > LONGEST_EVENT {
                return Err(TooLong);
            }
        }
        Ok(complete)
    }

    fn end_line(&mut self, line: &[u8], complete: &mut Vec<String>) {
        if line.is_empty() {
            complete.extend(self.data.take());
            return;
        }
        let text = String::from_utf8_lossy(line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_are_put_together_from_lines() {
        let mut events = Events::default();
        let text =
            b": comment\nevent: x\ndata: one\ndata: two\n\ndata:three\r\n\r\nid: 1\n\ndata: unfinished";
        assert_eq!(events.push(text).unwrap(), ["one\ntwo", "three"]);
        assert_eq!(events.push(b"\n\n").unwrap(), ["unfinished"]);
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut events = Events::default();
        assert_eq!(events.push(&vec![b'x'; LONGEST_EVENT + 1]), Err(TooLong));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_pieces_end(text in "(data: [a-zé]{0,5}(\n|\r\n){1,2}){0,10}", cut in 1..20_usize) {
            let whole = Events::default().push(text.as_bytes()).unwrap();
            let mut events = Events::default();
            let mut pieces = Vec::new();
            for piece in text.as_bytes().chunks(cut) {
                pieces.extend(events.push(piece).unwrap());
            }
            prop_assert_eq!(whole, pieces);
        }
    }
}
