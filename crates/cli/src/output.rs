//! Standard output: what a command tells the person at the terminal.
//!
//! Whoever reads it may go away at any time (`phase6 explain ... | head -1`). That ends nothing and is
//! no fault.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

use crate::ending::Ending;

/// Prints what a command is for.
///
/// # Errors
///
/// It cannot be written, for another reason than that nobody reads any more.
pub(crate) fn print(text: impl Display) -> Result<(), Ending> {
    match write(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Ending::Findings(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells something in passing. The work goes on whether it is heard or not.
pub(crate) fn say(text: impl Display) {
    let _ = write(text);
}

fn write(text: impl Display) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
