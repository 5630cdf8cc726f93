//! Messages on their way to a collector.

mod grpc;
mod http;

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use tokio::time::timeout;

pub(crate) use self::{grpc::Grpc, http::Http};

/// Longest time for one message, repetitions included.
pub(crate) const EXPORT: Duration = Duration::from_secs(10);
/// Longest time for a connection.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// Who sends, to whoever looks at the collector's requests.
pub(crate) const USER_AGENT: &str = concat!("phase6/", env!("CARGO_PKG_VERSION"));

/// Sends messages to one collector. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) enum Sender {
    Http(Http),
    Grpc(Box<Grpc>),
}

/// What a collector that took a message did not take of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) spans: u64,
    pub(crate) why: String,
}

/// A message did not arrive.
#[derive(Debug)]
struct Failure {
    told: String,
    again: Again,
}

/// Whether it may arrive if it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    No,
    /// When whoever sends thinks fit.
    Soon,
    /// As the collector wants it.
    After(Duration),
}

impl Sender {
    /// How it sends, in OpenTelemetry's words.
    pub(crate) fn protocol(&self) -> &'static str {
        match self {
            Self::Http(_) => "http/protobuf",
            Self::Grpc(_) => "grpc",
        }
    }

    /// Sends a message, up to four times where the collector says that it may be sent again or is not there.
    pub(crate) async fn send(&self, message: Bytes) -> Result<Refused, String> {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_millis(1_600))
            .with_max_times(3)
            .with_jitter();
        let message = self.prepared(message).await?;
        let sent = (|| self.once(message.clone()))
            .retry(pauses)
            .sleep(tokio::time::sleep)
            // One that wants to be left alone for longer than the message may take is.
            .adjust(|failure, pause| match failure.again {
                Again::No => None,
                Again::Soon => pause,
                Again::After(wanted) => pause.map(|_| wanted).filter(|wanted| *wanted < EXPORT),
            });
        match timeout(EXPORT, sent).await {
            Ok(Ok(answer)) => Ok(refused(answer)),
            Ok(Err(failure)) => Err(failure.told),
            Err(_) => Err(format!("no answer within {} s", EXPORT.as_secs())),
        }
    }

    async fn prepared(&self, message: Bytes) -> Result<Bytes, String> {
        match self {
            Self::Http(http) => http.prepared(message).await,
            Self::Grpc(_) => Ok(message),
        }
    }

    async fn once(&self, message: Bytes) -> Result<ExportTraceServiceResponse, Failure> {
        match self {
            Self::Http(http) => http.post(message).await,
            Self::Grpc(grpc) => grpc.call(message).await,
        }
    }
}

fn refused(answer: ExportTraceServiceResponse) -> Refused {
    answer.partial_success.map_or_else(Refused::default, |partly| Refused {
        spans: u64::try_from(partly.rejected_spans).unwrap_or_default(),
        why: partly.error_message,
    })
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}
