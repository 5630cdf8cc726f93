//! Delivery of messages to a collector, with retries.

#[cfg(feature = "grpc")]
mod grpc;
mod http;

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use tokio::time::timeout;

#[cfg(feature = "grpc")]
pub(crate) use self::grpc::GrpcSender;
pub(crate) use self::http::HttpSender;

/// Time limit for delivering one message, retries included.
pub(crate) const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for establishing a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const USER_AGENT: &str = concat!("phase6/", env!("CARGO_PKG_VERSION"));

/// Sends messages to one collector. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) enum Sender {
    Http(HttpSender),
    #[cfg(feature = "grpc")]
    Grpc(Box<GrpcSender>),
}

/// Spans that the collector rejected of a message that it accepted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PartialRejection {
    /// Number of rejected spans; 0 if all were accepted.
    pub(crate) spans: u64,
    /// Reason given by the collector.
    pub(crate) message: String,
}

/// A failed attempt to deliver a message.
#[derive(Debug)]
struct Failure {
    /// Description for the log.
    message: String,
    retry: Retry,
}

/// Retry policy after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// The collector would reject the message again.
    Never,
    /// After the sender's own backoff.
    Backoff,
    /// After the wait that the collector asked for.
    After(Duration),
}

impl Sender {
    /// Returns OpenTelemetry's name of the protocol.
    pub(crate) fn protocol(&self) -> &'static str {
        match self {
            Self::Http(_) => "http/protobuf",
            #[cfg(feature = "grpc")]
            Self::Grpc(_) => "grpc",
        }
    }

    /// Delivers a message. Makes up to four attempts if the collector is unreachable or allows retries. An
    /// error is a description for the log.
    pub(crate) async fn send(&self, message: Bytes) -> Result<PartialRejection, String> {
        let backoff = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_millis(1_600))
            .with_max_times(3)
            .with_jitter();
        let message = self.compress(message).await?;
        let delivery = (|| self.send_once(message.clone()))
            .retry(backoff)
            .sleep(tokio::time::sleep)
            // Gives up at once if the collector asks for a wait that exceeds the time limit of the message.
            .adjust(|failure, delay| match failure.retry {
                Retry::Never => None,
                Retry::Backoff => delay,
                Retry::After(wait) => delay.map(|_| wait).filter(|wait| *wait < EXPORT_TIMEOUT),
            });
        match timeout(EXPORT_TIMEOUT, delivery).await {
            Ok(Ok(response)) => Ok(partial_rejection(response)),
            Ok(Err(failure)) => Err(failure.message),
            Err(_) => Err(format!("no response within {} s", EXPORT_TIMEOUT.as_secs())),
        }
    }

    /// Compresses the message if the protocol leaves that to its user; the gRPC client compresses by itself.
    async fn compress(&self, message: Bytes) -> Result<Bytes, String> {
        match self {
            Self::Http(http) => http.compress(message).await,
            #[cfg(feature = "grpc")]
            Self::Grpc(_) => Ok(message),
        }
    }

    async fn send_once(&self, message: Bytes) -> Result<ExportTraceServiceResponse, Failure> {
        match self {
            Self::Http(http) => http.post(message).await,
            #[cfg(feature = "grpc")]
            Self::Grpc(grpc) => grpc.call(message).await,
        }
    }
}

fn partial_rejection(response: ExportTraceServiceResponse) -> PartialRejection {
    response.partial_success.map_or_else(PartialRejection::default, |partial| PartialRejection {
        spans: u64::try_from(partial.rejected_spans).unwrap_or_default(),
        message: partial.error_message,
    })
}

/// Formats an error and its causes on one line.
fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |chain, cause| format!("{chain}: {cause}"))
}
