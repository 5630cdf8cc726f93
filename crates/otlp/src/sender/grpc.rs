//! OTLP over gRPC.

use bytes::{BufMut, Bytes};
use http::{HeaderMap, uri::PathAndQuery};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Channel, ClientTlsConfig, Endpoint, Error},
};
use tonic_types::StatusExt;

use super::{CONNECT_TIMEOUT, EXPORT_TIMEOUT, Failure, Retry, USER_AGENT, error_chain};
use crate::environment::ExportOptions;

const EXPORT_METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[derive(Clone, Debug)]
pub(crate) struct GrpcSender {
    client: Grpc<Channel>,
    headers: HeaderMap,
}

impl GrpcSender {
    /// Creates a sender that connects when the first message is sent. Must be called on a Tokio runtime.
    pub(crate) fn new(endpoint: &str, options: ExportOptions) -> Result<Self, Error> {
        let mut target = Endpoint::from_shared(endpoint.to_owned())?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(EXPORT_TIMEOUT)
            .user_agent(USER_AGENT)?;
        if endpoint.starts_with("https:") {
            target = target.tls_config(ClientTlsConfig::new().with_enabled_roots())?;
        }
        let mut client = Grpc::new(target.connect_lazy());
        if options.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        Ok(Self { client, headers: options.headers })
    }

    pub(super) async fn call(&self, message: Bytes) -> Result<ExportTraceServiceResponse, Failure> {
        let mut client = self.client.clone();
        client
            .ready()
            .await
            .map_err(|error| Failure { message: error_chain(&error), retry: Retry::Backoff })?;
        let mut request = Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        let path = PathAndQuery::from_static(EXPORT_METHOD);
        match client.unary(request, path, EncodedCodec).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(Failure { message: error_chain(&status), retry: retry(&status) }),
        }
    }
}

/// Returns the retry policy of OTLP for a status.
fn retry(status: &Status) -> Retry {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable};
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match (status.code(), delay) {
        (ResourceExhausted | Unavailable, Some(delay)) if !delay.is_zero() => Retry::After(delay),
        (Aborted | Cancelled | DataLoss | DeadlineExceeded | OutOfRange | Unavailable, _) => Retry::Backoff,
        _ => Retry::Never,
    }
}

/// A codec for messages that are encoded already.
struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.put(message);
        Ok(())
    }
}

impl Decoder for EncodedCodec {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let response = Message::decode(buf);
        response.map(Some).map_err(|error| Status::internal(format!("malformed response: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn retries_the_statuses_that_otlp_declares_retryable() {
        let with_delay = |code, seconds| {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(seconds)));
            retry(&Status::with_error_details(code, "busy", details))
        };
        assert_eq!(with_delay(Code::ResourceExhausted, 2), Retry::After(Duration::from_secs(2)));
        assert_eq!(with_delay(Code::Unavailable, 3), Retry::After(Duration::from_secs(3)));
        assert_eq!(with_delay(Code::Unavailable, 0), Retry::Backoff);
        assert_eq!(with_delay(Code::Unauthenticated, 2), Retry::Never);
        let without_delay = |code| retry(&Status::new(code, "no"));
        assert_eq!(
            (without_delay(Code::Aborted), without_delay(Code::Unavailable)),
            (Retry::Backoff, Retry::Backoff)
        );
        for code in [Code::ResourceExhausted, Code::InvalidArgument, Code::Unimplemented] {
            assert_eq!(without_delay(code), Retry::Never, "{code:?}");
        }
    }
}
