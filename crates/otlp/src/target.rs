//! Where spans go, and how.

use std::str::FromStr;

use http::Uri;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

use crate::{
    environment::Extras,
    sender::{Grpc, Http, Sender},
};

/// Where collectors take OTLP over HTTP.
const TRACES: &str = "/v1/traces";

/// How spans are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf over HTTP/1.1; collectors listen for it at port 4318.
    #[default]
    HttpProtobuf,
    /// gRPC; collectors listen for it at port 4317.
    Grpc,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http/protobuf" => Ok(Self::HttpProtobuf),
            "grpc" => Ok(Self::Grpc),
            _ => Err(format!("{text:?} is not usable; accepted: http/protobuf, grpc")),
        }
    }
}

/// A collector. Clones share its connections.
///
/// Headers, above all those that show who sends, are read from `OTEL_EXPORTER_OTLP_HEADERS`;
/// `OTEL_EXPORTER_OTLP_COMPRESSION` and `OTEL_RESOURCE_ATTRIBUTES` are heeded too.
#[derive(Clone, Debug)]
pub struct Otlp {
    endpoint: String,
    sender: Sender,
}

/// The client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The system's certificates cannot be read.
    #[error("cannot make a client for HTTP")]
    Http(#[from] reqwest::Error),
    /// The same, of the client for gRPC.
    #[error("cannot make a client for gRPC")]
    Grpc(#[from] tonic::transport::Error),
    /// An environment variable of OpenTelemetry's is not usable.
    #[error("{0}")]
    Environment(String),
    /// The address is none.
    #[error("{0}")]
    Endpoint(String),
}

impl Otlp {
    /// The collector at `endpoint`, `http://HOST:PORT` or `https://` for TLS. Over HTTP spans go to
    /// `/v1/traces` below it. Must be called on a Tokio runtime.
    ///
    /// # Errors
    ///
    /// See [`OtlpError`]; a collector that does not answer is none.
    pub fn new(endpoint: &str, protocol: Protocol) -> Result<Self, OtlpError> {
        let endpoint = checked(endpoint).map_err(OtlpError::Endpoint)?;
        let extras = Extras::from_environment().map_err(OtlpError::Environment)?;
        // Installed twice, the first one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(match protocol {
            Protocol::HttpProtobuf => {
                let endpoint = format!("{endpoint}{TRACES}");
                Self { sender: Sender::Http(Http::new(endpoint.clone(), extras)?), endpoint }
            }
            Protocol::Grpc => {
                Self { sender: Sender::Grpc(Box::new(Grpc::new(&endpoint, extras)?)), endpoint }
            }
        })
    }

    /// Where spans go, path and all.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What sends them.
    pub(crate) fn sender(&self) -> &Sender {
        &self.sender
    }
}

/// Who sends: what the environment says, and the service.
pub(crate) fn resource(service: &str, version: &str) -> Resource {
    let mut known = vec![
        KeyValue::new("service.namespace", "phase6"),
        KeyValue::new("service.version", version.to_owned()),
    ];
    // A pod's name.
    if let Ok(host) = std::env::var("HOSTNAME") {
        known.push(KeyValue::new("service.instance.id", format!("{host}/{}", std::process::id())));
    }
    Resource::builder().with_attributes(known).with_service_name(service.to_owned()).build()
}

/// The address without a slash at its end.
fn checked(endpoint: &str) -> Result<String, String> {
    let accepted = "accepted: http://HOST:PORT or https://HOST:PORT";
    // Not repeated where it may hold a password.
    if endpoint.contains('@') {
        return Err(format!(
            "a user or password in the address is not used; {accepted}, and a header that says who sends in OTEL_EXPORTER_OTLP_HEADERS"
        ));
    }
    let uri: Uri =
        endpoint.parse().map_err(|error| format!("{endpoint:?} is no address ({error}); {accepted}"))?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let plain = uri.query().is_none() && uri.host().is_some_and(|host| !host.is_empty());
    if known && plain {
        Ok(endpoint.trim_end_matches('/').to_owned())
    } else {
        Err(format!("{endpoint:?} is not usable; {accepted}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_http_with_a_host_and_no_secret() {
        for usable in ["http://127.0.0.1:4318", "https://collector.example/otlp/", "http://[::1]:4318"] {
            assert_eq!(checked(usable).unwrap(), usable.trim_end_matches('/'));
        }
        for not in
            ["", "collector:4318", "/v1/traces", "ftp://collector", "http://", "http://c/?key=1", "no such"]
        {
            let told = checked(not).unwrap_err();
            assert!(told.contains(&format!("{not:?}")) && told.contains("accepted"), "{told}");
        }
        let told = checked("http://user:geheim@collector:4318").unwrap_err();
        assert!(!told.contains("geheim") && told.contains("OTEL_EXPORTER_OTLP_HEADERS"), "{told}");
    }

    #[test]
    fn a_protocol_is_called_as_opentelemetry_calls_it() {
        assert_eq!("grpc".parse(), Ok(Protocol::Grpc));
        assert_eq!("http/protobuf".parse(), Ok(Protocol::HttpProtobuf));
        assert!("http/json".parse::<Protocol>().unwrap_err().contains("accepted: http/protobuf, grpc"));
    }
}
