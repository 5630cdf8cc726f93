//! Standard output: messages for the person at the terminal.
//!
//! The reader may close the pipe at any time (`phase6 explain ... | head -1`). That is not an error.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
};

use crate::RunError;

/// Prints the result of a command.
///
/// # Errors
///
/// Standard output cannot be written, for a reason other than a closed pipe.
pub fn print(text: impl Display) -> Result<(), RunError> {
    match write(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(RunError::Failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a message about progress; write errors are ignored, because the work continues either way.
pub(crate) fn notify(text: impl Display) {
    let _ = write(text);
}

fn write(text: impl Display) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
