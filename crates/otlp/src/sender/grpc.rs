//! gRPC.

use bytes::{BufMut, Bytes};
use http::{HeaderMap, uri::PathAndQuery};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::{
    Code, Request, Status,
    client::Grpc as Client,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Channel, ClientTlsConfig, Endpoint, Error},
};
use tonic_types::StatusExt;

use super::{Again, CONNECT, EXPORT, Failure, USER_AGENT, chain};
use crate::environment::Extras;

/// The method that takes spans.
const EXPORT_SPANS: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    client: Client<Channel>,
    headers: HeaderMap,
}

impl Grpc {
    /// Connects when there is something to send. Must be called on a Tokio runtime.
    pub(crate) fn new(endpoint: &str, extras: Extras) -> Result<Self, Error> {
        let mut target = Endpoint::from_shared(endpoint.to_owned())?
            .connect_timeout(CONNECT)
            .timeout(EXPORT)
            .user_agent(USER_AGENT)?;
        if endpoint.starts_with("https:") {
            target = target.tls_config(ClientTlsConfig::new().with_enabled_roots())?;
        }
        let mut client = Client::new(target.connect_lazy());
        if extras.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        Ok(Self { client, headers: extras.headers })
    }

    pub(super) async fn call(&self, message: Bytes) -> Result<ExportTraceServiceResponse, Failure> {
        let mut client = self.client.clone();
        client.ready().await.map_err(|error| Failure { told: chain(&error), again: Again::Soon })?;
        let mut request = Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        let path = PathAndQuery::from_static(EXPORT_SPANS);
        match client.unary(request, path, Written).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(Failure { told: chain(&status), again: again(&status) }),
        }
    }
}

fn again(status: &Status) -> Again {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable};
    let wanted = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match (status.code(), wanted) {
        (ResourceExhausted | Unavailable, Some(wanted)) if !wanted.is_zero() => Again::After(wanted),
        (Aborted | Cancelled | DataLoss | DeadlineExceeded | OutOfRange | Unavailable, _) => Again::Soon,
        _ => Again::No,
    }
}

/// Messages that are bytes already.
struct Written;

impl Codec for Written {
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

impl Encoder for Written {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Written {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let answer = Message::decode(from);
        answer.map(Some).map_err(|error| Status::internal(format!("its answer is no answer: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_message_is_sent_again_where_the_collector_may_take_it_later() {
        let later = |code, after| {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(after)));
            again(&Status::with_error_details(code, "busy", details))
        };
        assert_eq!(later(Code::ResourceExhausted, 2), Again::After(Duration::from_secs(2)));
        assert_eq!(later(Code::Unavailable, 3), Again::After(Duration::from_secs(3)));
        assert_eq!(later(Code::Unavailable, 0), Again::Soon);
        assert_eq!(later(Code::Unauthenticated, 2), Again::No);
        let plain = |code| again(&Status::new(code, "no"));
        assert_eq!((plain(Code::Aborted), plain(Code::Unavailable)), (Again::Soon, Again::Soon));
        for never in [Code::ResourceExhausted, Code::InvalidArgument, Code::Unimplemented] {
            assert_eq!(plain(never), Again::No, "{never:?}");
        }
    }
}
