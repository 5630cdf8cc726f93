//! Options of the build stage that apply to every resource.

use std::{collections::BTreeMap, str::FromStr};

use axum::http::Uri;

/// Options that apply to every resource.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Image of resources that name none.
    pub image: String,
    /// `imagePullPolicy` of the pods, or `None` for the default of Kubernetes.
    pub pull_policy: Option<String>,
    /// Secrets for pulling the image.
    pub pull_secrets: Vec<String>,
    /// Secret with the API keys that services accept and with the token that services share.
    pub access_secret: String,
    /// Secret key with the URL of the database, or `None` if each pod has a database file.
    pub database: Option<SecretKey>,
    /// Secret key with the URL of the Redis that replicas share, or `None` if limits are divided among them.
    pub redis: Option<SecretKey>,
    /// Collector that services send spans to.
    pub collector: Option<Collector>,
    /// Namespace of the operator, which must reach the pods.
    pub operator_namespace: String,
    /// True if a `NetworkPolicy` restricts the connections of the pods.
    pub network_policy: bool,
    /// Ports that pods may connect to besides those of peers, DNS and the API server.
    pub egress_ports: Vec<u16>,
    /// True if the cluster has the kind `ServiceMonitor`.
    pub service_monitors: bool,
    /// Labels by which a Prometheus selects `ServiceMonitor`s.
    pub monitor_labels: BTreeMap<String, String>,
    /// Longest time in which a terminating pod still accepts connections, in seconds.
    pub stop_notice: u16,
}

/// One key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretKey {
    /// Name of the Secret, in the namespace of the resource.
    pub name: String,
    /// Key in the Secret.
    pub key: String,
}

impl FromStr for SecretKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((name, key)) if !name.is_empty() && !key.is_empty() => {
                Ok(Self { name: name.into(), key: key.into() })
            }
            _ => Err("accepted: NAME/KEY of a Secret".into()),
        }
    }
}

/// OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Endpoint that receives spans.
    pub endpoint: Endpoint,
    /// Protocol, as in `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub protocol: String,
    /// Secret key with the headers of each request, as `NAME=VALUE[,NAME=VALUE]`.
    pub headers: Option<SecretKey>,
}

/// URL of an HTTP or gRPC endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// URL.
    pub url: String,
    /// Port of the URL, or the default port of its scheme.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let accepted = "accepted: http://HOST[:PORT] or https://HOST[:PORT]";
        let uri: Uri = text.parse().map_err(|_| accepted)?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(accepted.into()),
        };
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        // User information and a query may hold secrets, and the URL is stored in the Deployment.
        if has_host && !text.contains('@') && uri.query().is_none() {
            Ok(Self { url: text.to_owned(), port: uri.port_u16().unwrap_or(default_port) })
        } else {
            Err(accepted.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_key_is_parsed_from_name_and_key() {
        let secret = SecretKey { name: "db".into(), key: "url".into() };
        assert_eq!("db/url".parse(), Ok(secret));
        assert_eq!("db".parse::<SecretKey>(), Err("accepted: NAME/KEY of a Secret".into()));
    }

    #[test]
    fn rejects_endpoints_without_scheme_or_host_and_with_secrets() {
        for url in ["", "collector:4318", "http://me:secret@collector", "http://", "http://c?key=1"] {
            assert!(url.parse::<Endpoint>().expect_err(url).starts_with("accepted: http://"));
        }
    }
}
