//! Output that stays on one line.

use std::fmt;

/// Writes text with every line break and control character escaped.
///
/// Names and values in messages come from files that anybody may have written. A line break in one of
/// them would start a separate line in a log, and that line could imitate a genuine log line.
pub(crate) struct OneLine<W>(pub(crate) W);

impl<W: fmt::Write> fmt::Write for OneLine<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '\u{2028}' | '\u{2029}' => write!(self.0, "{}", c.escape_unicode()),
            c if c.is_control() => write!(self.0, "{}", c.escape_default()),
            c => self.0.write_char(c),
        })
    }
}
