//! Log lines: on standard error, for people or for programs.

use std::io::IsTerminal;

use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::args::LogForm;

/// Begins logging. `RUST_LOG` chooses what; our own lines from `info` on by default.
pub(crate) fn begin(form: Option<LogForm>) {
    let terminal = std::io::stderr().is_terminal();
    let form = form.unwrap_or(if terminal { LogForm::Text } else { LogForm::Json });
    let wanted = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter =
        wanted.unwrap_or_else(|| "warn,phase6=info".parse().expect("a constant filter is well-formed"));
    // Telling that a line could not be written would panic where nobody reads any more.
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false).log_internal_errors(false);
    let lines = match form {
        LogForm::Text => lines.with_ansi(terminal).compact().boxed(),
        LogForm::Json => lines.json().flatten_event(true).boxed(),
    };
    // Already begun: keep that.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
