//! What the operator is told when it starts. Doc comments are its help texts.

#![allow(clippy::doc_markdown, reason = "help is read in a terminal, where backticks only disturb")]

use std::{net::SocketAddr, str::FromStr};

use axum::http::Uri;
use clap::Parser;

use crate::{
    build::{Collector, Context, Endpoint, SecretKey},
    world::Scope,
};

/// Brings Phase6Service resources about and says when every replica enforces their policy.
#[derive(Clone, Debug, Parser)]
#[command(name = "phase6-operator", version)]
pub struct Settings {
    /// Look after these namespaces only [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "PHASE6_WATCH_NAMESPACES")]
    watch_namespaces: Vec<String>,

    /// Image of the services that name none
    #[arg(long, env = "PHASE6_IMAGE")]
    image: String,

    /// When nodes fetch it: Always, IfNotPresent or Never [default: Kubernetes' own]
    #[arg(long, value_name = "WHEN", env = "PHASE6_IMAGE_PULL_POLICY")]
    image_pull_policy: Option<String>,

    /// Secrets for fetching it, in the namespaces of the resources
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "PHASE6_IMAGE_PULL_SECRETS")]
    image_pull_secrets: Vec<String>,

    /// Secret with the keys `api-keys` and `internal-token`, in the namespaces of the resources
    #[arg(long, value_name = "NAME", default_value = "phase6-access", env = "PHASE6_ACCESS_SECRET")]
    access_secret: String,

    /// Secret and key of the database's URL, in the namespaces of the resources [default: each pod
    /// has a database of its own, which it loses]
    #[arg(long, value_name = "NAME/KEY", env = "PHASE6_DATABASE_SECRET")]
    database_secret: Option<SecretKey>,

    /// Secret and key of the URL of the Redis that replicas share limits through, in the namespaces of the
    /// resources [default: a shared limit is divided among them]
    #[arg(long, value_name = "NAME/KEY", env = "PHASE6_REDIS_SECRET")]
    redis_secret: Option<SecretKey>,

    /// OpenTelemetry collector that services send finished spans to, http://HOST:PORT or https:// for TLS;
    /// pods may connect to its port [default: each service keeps its newest spans, and sends none]
    #[arg(long, value_name = "URL", env = "PHASE6_OTLP_ENDPOINT")]
    otlp_endpoint: Option<Endpoint>,

    /// How they do
    #[arg(
        long, value_name = "PROTOCOL", env = "PHASE6_OTLP_PROTOCOL", default_value = "http/protobuf",
        value_parser = ["http/protobuf", "grpc"]
    )]
    otlp_protocol: String,

    /// Secret and key of the headers that the collector wants, NAME=VALUE[,NAME=VALUE], in the namespaces of
    /// the resources
    #[arg(long, value_name = "NAME/KEY", env = "PHASE6_OTLP_HEADERS_SECRET")]
    otlp_headers_secret: Option<SecretKey>,

    /// Labels of the ServiceMonitors that it makes, by which a Prometheus selects them
    #[arg(
        long, value_name = "NAME=VALUE", value_delimiter = ',', env = "PHASE6_MONITOR_LABELS",
        value_parser = label
    )]
    monitor_labels: Vec<(String, String)>,

    /// Make no NetworkPolicy
    #[arg(long, env = "PHASE6_NO_NETWORK_POLICY")]
    no_network_policy: bool,

    /// Ports that services may connect to beside their peers, DNS and the API server
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        env = "PHASE6_EGRESS_PORTS",
        default_value = "443,5432,6379"
    )]
    egress_ports: Vec<u16>,

    /// The namespace that the operator runs in; its Lease is there
    #[arg(long, value_name = "NAME", default_value = "phase6-system", env = "PHASE6_NAMESPACE")]
    namespace: String,

    /// The operator's pod, as it signs its Lease and events
    #[arg(long, value_name = "NAME", default_value = "phase6-operator", env = "PHASE6_POD_NAME")]
    pub(crate) pod_name: String,

    /// Run without an election, as the only replica
    #[arg(long)]
    pub(crate) no_election: bool,

    /// Where to serve /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080", env = "PHASE6_OPERATOR_BIND")]
    pub(crate) bind: SocketAddr,
}

impl Settings {
    /// The scopes, each of which gets a controller of its own.
    pub(crate) fn scopes(&self) -> Vec<Scope> {
        let mut names: Vec<&String> = self.watch_namespaces.iter().filter(|name| !name.is_empty()).collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            vec![Scope::Cluster]
        } else {
            names.into_iter().cloned().map(Scope::Namespace).collect()
        }
    }

    /// The namespace that the operator runs in.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The ports that pods may connect to, the collector's among them.
    fn egress_ports(&self) -> Vec<u16> {
        let mut ports = self.egress_ports.clone();
        let collector = self.otlp_endpoint.iter().map(|endpoint| endpoint.port);
        ports.extend(collector.filter(|port| !self.egress_ports.contains(port)));
        ports
    }

    /// What objects are built with. `monitors`: whether the cluster knows `ServiceMonitor`.
    pub(crate) fn context(&self, monitors: bool) -> Context {
        Context {
            image: self.image.clone(),
            pull_policy: self.image_pull_policy.clone().filter(|policy| !policy.is_empty()),
            pull_secrets: self.image_pull_secrets.iter().filter(|name| !name.is_empty()).cloned().collect(),
            access_secret: self.access_secret.clone(),
            database: self.database_secret.clone(),
            redis: self.redis_secret.clone(),
            operator_namespace: self.namespace.clone(),
            network_policy: !self.no_network_policy,
            egress_ports: self.egress_ports(),
            collector: self.otlp_endpoint.clone().map(|endpoint| Collector {
                endpoint,
                protocol: self.otlp_protocol.clone(),
                headers: self.otlp_headers_secret.clone(),
            }),
            monitors,
            monitor_labels: self.monitor_labels.iter().cloned().collect(),
        }
    }
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

fn label(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = split.ok_or("accepted: NAME=VALUE of a label")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let accepted = "accepted: http://HOST[:PORT] or https://HOST[:PORT]";
        // What comes before an at sign may be a password, and a Deployment is no place for one.
        let uri: Uri = text.parse().map_err(|_| accepted)?;
        let usual = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(accepted.into()),
        };
        let named = uri.host().is_some_and(|host| !host.is_empty());
        if named && !text.contains('@') && uri.query().is_none() {
            Ok(Self { url: text.to_owned(), port: uri.port_u16().unwrap_or(usual) })
        } else {
            Err(accepted.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Settings::command().debug_assert();
    }

    #[test]
    fn without_namespaces_all_are_looked_after() {
        let scopes = |arguments: &[&str]| {
            let all = ["phase6-operator", "--image=i"].iter().chain(arguments);
            Settings::try_parse_from(all).expect("accepted").scopes()
        };
        assert_eq!(scopes(&[]), [Scope::Cluster]);
        let two = [Scope::Namespace("a".into()), Scope::Namespace("b".into())];
        assert_eq!(scopes(&["--watch-namespaces=b,a,b"]), two);
    }

    #[test]
    fn pods_may_connect_to_the_port_of_the_collector() {
        let context = |arguments: &[&str]| {
            let all = ["phase6-operator", "--image=i"].iter().chain(arguments);
            Settings::try_parse_from(all).expect("accepted").context(false)
        };
        assert_eq!(context(&[]).egress_ports, [443, 5432, 6379]);
        for (url, ports) in [
            ("http://collector:4318", &[443, 5432, 6379, 4318][..]),
            ("https://collector.example", &[443, 5432, 6379]),
            ("http://[::1]/otlp", &[443, 5432, 6379, 80]),
        ] {
            let context = context(&["--otlp-endpoint", url]);
            assert_eq!(context.egress_ports, ports, "{url}");
            assert_eq!(context.collector.expect("one was named").endpoint.url, url);
        }
        for not in ["", "collector:4318", "http://me:secret@collector", "http://", "http://c?key=1"] {
            assert!(not.parse::<Endpoint>().expect_err(not).starts_with("accepted: http://"));
        }
    }

    #[test]
    fn monitors_have_the_labels_that_a_prometheus_selects_by() {
        let all = ["phase6-operator", "--image=i", "--monitor-labels=release=prometheus,team="];
        let labels = Settings::try_parse_from(all).expect("accepted").context(true).monitor_labels;
        assert_eq!(labels["release"], "prometheus");
        assert_eq!(labels["team"], "");
        let wrong = ["phase6-operator", "--image=i", "--monitor-labels=release"];
        assert!(Settings::try_parse_from(wrong).is_err());
    }

    #[test]
    fn a_secret_is_named_with_its_key() {
        let secret = SecretKey { name: "db".into(), key: "url".into() };
        assert_eq!("db/url".parse(), Ok(secret));
        assert_eq!("db".parse::<SecretKey>(), Err("accepted: NAME/KEY of a Secret".into()));
    }
}
