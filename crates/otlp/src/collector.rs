//! Connection to a collector, and how it is configured.

use std::str::FromStr;

use http::{Uri, uri::InvalidUri};
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

use crate::{
    environment::{EnvironmentError, ExportOptions},
    sender::{HttpSender, Sender},
};

/// Path of the trace endpoint in OTLP over HTTP.
const TRACES_PATH: &str = "/v1/traces";

/// Transport protocol of OTLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Protobuf over HTTP/1.1; a collector's default port is 4318.
    #[default]
    HttpProtobuf,
    /// gRPC; a collector's default port is 4317.
    Grpc,
}

/// A protocol name that is not supported.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unsupported protocol {0:?}; accepted: http/protobuf, grpc")]
pub struct UnsupportedProtocol(String);

impl FromStr for Protocol {
    type Err = UnsupportedProtocol;

    fn from_str(text: &str) -> Result<Self, UnsupportedProtocol> {
        match text {
            "http/protobuf" => Ok(Self::HttpProtobuf),
            "grpc" => Ok(Self::Grpc),
            _ => Err(UnsupportedProtocol(text.to_owned())),
        }
    }
}

/// A collector that spans are sent to. Clones share its connections.
///
/// Reads the headers to send, usually for authentication, from `OTEL_EXPORTER_OTLP_HEADERS`. Also supports
/// `OTEL_EXPORTER_OTLP_COMPRESSION` and `OTEL_RESOURCE_ATTRIBUTES`.
#[derive(Clone, Debug)]
pub struct Collector {
    endpoint: String,
    sender: Sender,
}

/// Error while setting up a [`Collector`].
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// The HTTP client could not be created, for example because the system's certificates cannot be read.
    #[error("failed to create the HTTP client")]
    Http(#[from] reqwest::Error),
    /// The gRPC client could not be created.
    #[cfg(feature = "grpc")]
    #[error("failed to create the gRPC client")]
    Grpc(#[from] tonic::transport::Error),
    /// The program was built without the feature `grpc`.
    #[cfg(not(feature = "grpc"))]
    #[error(
        "the protocol is grpc, and this program was built without it; accepted: http/protobuf, or a build \
         with `--features cluster`"
    )]
    WithoutGrpc,
    /// An OpenTelemetry environment variable is invalid.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The endpoint is invalid.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}

/// An endpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The endpoint contains a user or password. Does not hold the text, which may include the password.
    #[error(
        "endpoints with a user or password are not supported; accepted: http://HOST:PORT or \
         https://HOST:PORT, with credentials as a header in OTEL_EXPORTER_OTLP_HEADERS"
    )]
    Credentials,
    /// The endpoint is not a URI.
    #[error("{endpoint:?} is not a URI; accepted: http://HOST:PORT or https://HOST:PORT")]
    Syntax {
        /// Text of the endpoint.
        endpoint: String,
        /// Syntax error.
        source: InvalidUri,
    },
    /// The endpoint has another scheme, no host, or a query.
    #[error("unsupported endpoint {endpoint:?}; accepted: http://HOST:PORT or https://HOST:PORT")]
    Unsupported {
        /// Text of the endpoint.
        endpoint: String,
    },
}

impl Collector {
    /// Creates a connection to the collector at `endpoint`, `http://HOST:PORT`, or `https://HOST:PORT` for
    /// TLS. Over HTTP, spans go to the path `/v1/traces` below it. Connects when the first span is sent. Must
    /// be called on a Tokio runtime.
    ///
    /// # Errors
    ///
    /// See [`CollectorError`]. A collector that cannot be reached is not an error.
    pub fn new(endpoint: &str, protocol: Protocol) -> Result<Self, CollectorError> {
        let endpoint = validate(endpoint)?;
        let options = ExportOptions::from_environment()?;
        // Fails if a provider is installed already, which is then used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(match protocol {
            Protocol::HttpProtobuf => {
                let endpoint = format!("{endpoint}{TRACES_PATH}");
                Self { sender: Sender::Http(HttpSender::new(endpoint.clone(), options)?), endpoint }
            }
            #[cfg(feature = "grpc")]
            Protocol::Grpc => {
                let sender = crate::sender::GrpcSender::new(&endpoint, options)?;
                Self { sender: Sender::Grpc(Box::new(sender)), endpoint }
            }
            #[cfg(not(feature = "grpc"))]
            Protocol::Grpc => return Err(CollectorError::WithoutGrpc),
        })
    }

    /// Returns the URL that spans are sent to.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn sender(&self) -> &Sender {
        &self.sender
    }
}

/// Returns the resource that a service's spans belong to: its name, version and instance, and the attributes
/// of `OTEL_RESOURCE_ATTRIBUTES`.
pub(crate) fn resource(service: &str, version: &str) -> Resource {
    let mut attributes = vec![
        KeyValue::new("service.namespace", "phase6"),
        KeyValue::new("service.version", version.to_owned()),
    ];
    // In Kubernetes this is the name of the pod.
    if let Ok(host) = std::env::var("HOSTNAME") {
        attributes.push(KeyValue::new("service.instance.id", format!("{host}/{}", std::process::id())));
    }
    Resource::builder().with_attributes(attributes).with_service_name(service.to_owned()).build()
}

/// Returns the endpoint without trailing slashes.
fn validate(endpoint: &str) -> Result<String, EndpointError> {
    if endpoint.contains('@') {
        return Err(EndpointError::Credentials);
    }
    let uri: Uri =
        endpoint.parse().map_err(|source| EndpointError::Syntax { endpoint: endpoint.to_owned(), source })?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    if is_http && has_host && uri.query().is_none() {
        Ok(endpoint.trim_end_matches('/').to_owned())
    } else {
        Err(EndpointError::Unsupported { endpoint: endpoint.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_http_endpoints_with_a_host_and_without_credentials() {
        for valid in ["http://127.0.0.1:4318", "https://collector.example/otlp/", "http://[::1]:4318"] {
            assert_eq!(validate(valid).unwrap(), valid.trim_end_matches('/'));
        }
        for invalid in
            ["", "collector:4318", "/v1/traces", "ftp://collector", "http://", "http://c/?key=1", "no such"]
        {
            let error = validate(invalid).unwrap_err().to_string();
            assert!(error.contains(&format!("{invalid:?}")) && error.contains("accepted"), "{error}");
        }
        let error = validate("http://user:geheim@collector:4318").unwrap_err().to_string();
        assert!(!error.contains("geheim") && error.contains("OTEL_EXPORTER_OTLP_HEADERS"), "{error}");
    }

    #[test]
    fn protocols_have_opentelemetrys_names() {
        assert_eq!("grpc".parse(), Ok(Protocol::Grpc));
        assert_eq!("http/protobuf".parse(), Ok(Protocol::HttpProtobuf));
        let error = "http/json".parse::<Protocol>().unwrap_err().to_string();
        assert!(error.contains("accepted: http/protobuf, grpc"));
    }
}
