//! How a command ends when not well.

use std::process::ExitCode;

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
    #[allow(clippy::print_stderr, reason = "the last words of a command line program")]
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Findings(text) => {
                eprintln!("{text}");
                ExitCode::from(1)
            }
            Self::Usage(text) => {
                eprintln!("error: {text}");
                ExitCode::from(2)
            }
        }
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
