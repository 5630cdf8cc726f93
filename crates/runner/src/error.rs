//! Errors that end a command.

use std::{io::Write, process::ExitCode};

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The command found errors, or could not do its work. Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The command line is not valid. Exit code 2.
    #[error("{0}")]
    Usage(String),
}

impl RunError {
    /// Prints the error to standard error, and returns the exit code.
    pub fn report(&self) -> ExitCode {
        let mut out = std::io::stderr();
        // A reader that has gone away does not change the exit code.
        match self {
            Self::Failed(message) => {
                let _ = writeln!(out, "{message}");
                ExitCode::from(1)
            }
            Self::Usage(message) => {
                let _ = writeln!(out, "error: {message}");
                ExitCode::from(2)
            }
        }
    }
}

/// Formats an error with all its causes on one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat the cause in their own message.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
