//! How a command ends when not well.

use std::{io::Write, process::ExitCode};

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Ending {
    /// It did its work and found faults, or the work failed.
    Findings(String),
    /// It was called wrongly.
    Usage(String),
}

impl Ending {
    /// Tells the person and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let (text, code) = match self {
            Self::Findings(text) => (text, 1),
            Self::Usage(text) => (format!("error: {text}"), 2),
        };
        // Last words that nobody hears change nothing.
        let _ = writeln!(std::io::stderr(), "{text}");
        ExitCode::from(code)
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
