//! Parser of server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! Accepts input in parts of any size, does no I/O, and uses a bounded amount of memory.

/// Maximum size of an event, in bytes.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// Incremental parser of server-sent events.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    line: Vec<u8>,
    data: Option<String>,
    after_return: bool,
}

/// An event that exceeds the maximum size.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventTooLarge;

impl EventParser {
    /// Adds input and returns the data of every event that it completes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, EventTooLarge> {
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
            if self.line.len() + self.data.as_ref().map_or(0, String::len) > MAX_EVENT_BYTES {
                return Err(EventTooLarge);
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
    fn joins_the_data_lines_of_an_event() {
        let mut parser = EventParser::default();
        let text =
            b": comment\nevent: x\ndata: one\ndata: two\n\ndata:three\r\n\r\nid: 1\n\ndata: unfinished";
        assert_eq!(parser.push(text).unwrap(), ["one\ntwo", "three"]);
        assert_eq!(parser.push(b"\n\n").unwrap(), ["unfinished"]);
    }

    #[test]
    fn rejects_an_event_that_is_too_large() {
        let mut parser = EventParser::default();
        assert_eq!(parser.push(&vec![b'x'; MAX_EVENT_BYTES + 1]), Err(EventTooLarge));
    }

    proptest! {
        #[test]
        fn events_do_not_depend_on_how_the_input_is_split(text in "(data: [a-zé]{0,5}(\n|\r\n){1,2}){0,10}", cut in 1..20_usize) {
            let whole = EventParser::default().push(text.as_bytes()).unwrap();
            let mut parser = EventParser::default();
            let mut events = Vec::new();
            for part in text.as_bytes().chunks(cut) {
                events.extend(parser.push(part).unwrap());
            }
            prop_assert_eq!(whole, events);
        }
    }
}
