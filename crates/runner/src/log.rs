//! Logging to standard error, as text or JSON. Lines that are written while a request is handled carry
//! its trace ID.

use std::{fmt, io::IsTerminal};

use clap::ValueEnum;
use phase6_chassis::telemetry::{Exchange, TraceId};
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    Layer,
    field::RecordFields,
    filter::Targets,
    fmt::{
        FmtContext, FormatFields, MakeWriter,
        format::{FormatEvent, Writer},
        layer,
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Readable text, colored on a terminal
    Text,
    /// One JSON object per line
    Json,
}

/// Starts logging. `RUST_LOG` selects levels and targets; the default is `warn,phase6=info`.
pub(crate) fn start(format: Option<LogFormat>) {
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let requested = std::env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter =
        requested.unwrap_or_else(|| "warn,phase6=info".parse().expect("a constant filter is well-formed"));
    let lines = formatted(format, terminal, std::io::stderr);
    // Fails if logging has already started; the first configuration then stays.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

/// Layer that writes lines in `format`.
fn formatted<S, W>(format: LogFormat, colors: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // Reporting a failed write would panic once standard error is closed.
    let lines = layer().with_writer(writer).with_target(false).log_internal_errors(false);
    match format {
        LogFormat::Text => lines.with_ansi(colors).compact().map_fmt_fields(WithTrace).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).map_event_format(WithTrace).boxed(),
    }
}

/// Adds the trace ID of the current request to a format.
struct WithTrace<F>(F);

/// Trace ID of the current request.
fn current_trace() -> Option<TraceId> {
    Exchange::current().map(|exchange| exchange.context().trace_id)
}

/// Appends the trace ID to the fields of a text line.
impl<'writer, F: for<'a> FormatFields<'a>> FormatFields<'writer> for WithTrace<F> {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        self.0.format_fields(writer.by_ref(), fields)?;
        current_trace().map_or(Ok(()), |trace_id| write!(writer, " traceId={trace_id}"))
    }
}

/// Inserts the trace ID into a JSON line.
impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(trace_id) = current_trace() else { return self.0.format_event(context, writer, event) };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        match line.strip_prefix('{') {
            Some(rest) => write!(writer, "{{\"traceId\":\"{trace_id}\",{rest}"),
            None => writer.write_str(&line),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test panics")]
mod tests {
    use std::{
        convert::Infallible,
        io::Write,
        sync::{Arc, Mutex},
    };

    use http::{Request, Response};
    use phase6_chassis::telemetry::{RequestAccessors, RequestTelemetryLayer, Sampler, Telemetry};
    use tower::{Layer as _, ServiceExt, service_fn};

    use super::*;

    /// Captured log output.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    /// Logs one line inside a request and one after it.
    async fn logged(format: LogFormat) -> Vec<String> {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(formatted(format, false, lines.clone()));
        let _guard = tracing::subscriber::set_default(subscriber);
        let telemetry = Telemetry::new("test", Sampler::new(1), None);
        let accessors = RequestAccessors { tracing: |_| None, trusted: |_| false };
        let service =
            RequestTelemetryLayer::new(telemetry, accessors).layer(service_fn(|request: Request<()>| {
                let exchange = Arc::clone(request.extensions().get::<Arc<Exchange>>().unwrap());
                exchange.scope(async {
                    tracing::info!(n = 1, "inside");
                    Ok::<_, Infallible>(Response::new(()))
                })
            }));
        let traceparent = format!("00-{TRACE}-b7ad6b7169203331-00");
        let request = Request::builder().header("traceparent", traceparent).body(()).unwrap();
        service.oneshot(request).await.unwrap();
        tracing::info!("outside");
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_line_within_a_request_has_its_trace_id() {
        let lines = logged(LogFormat::Text).await;
        assert!(lines[0].ends_with(&format!("INFO inside n=1 traceId={TRACE}")), "{lines:?}");
        assert!(lines[1].ends_with("INFO outside"), "{lines:?}");

        let lines: Vec<serde_json::Value> =
            logged(LogFormat::Json).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["message"], &lines[0]["traceId"]), (&"inside".into(), &TRACE.into()));
        assert_eq!((&lines[1]["message"], lines[1].get("traceId")), (&"outside".into(), None));
    }
}
