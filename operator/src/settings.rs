//! Command line of the operator. Doc comments of the fields are its help texts.

#![allow(clippy::doc_markdown, reason = "help is read in a terminal, where backticks are noise")]

use std::{net::SocketAddr, time::Duration};

use clap::Parser;

use crate::{
    build::{BuildOptions, Collector, Endpoint, SecretKey},
    cluster_view::Scope,
};

/// Runs Phase6Service resources and reports when every replica enforces their policy.
#[derive(Clone, Debug, Parser)]
#[command(name = "phase6-operator", version)]
pub struct Settings {
    /// Namespaces to reconcile resources in [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "PHASE6_WATCH_NAMESPACES")]
    watch_namespaces: Vec<String>,

    /// Image of resources that name none
    #[arg(long, env = "PHASE6_IMAGE")]
    image: String,

    /// Pull policy of the image: Always, IfNotPresent or Never [default: that of Kubernetes]
    #[arg(long, value_name = "POLICY", env = "PHASE6_IMAGE_PULL_POLICY")]
    image_pull_policy: Option<String>,

    /// Secrets for pulling the image, in the namespaces of the resources
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "PHASE6_IMAGE_PULL_SECRETS")]
    image_pull_secrets: Vec<String>,

    /// Secret with the keys `api-keys` and `internal-token`, in the namespaces of the resources
    #[arg(long, value_name = "NAME", default_value = "phase6-access", env = "PHASE6_ACCESS_SECRET")]
    access_secret: String,

    /// Secret and key of the database URL, in the namespaces of the resources [default: each pod has a
    /// database file, which is lost with the pod]
    #[arg(long, value_name = "NAME/KEY", env = "PHASE6_DATABASE_SECRET")]
    database_secret: Option<SecretKey>,

    /// Secret and key of the URL of the Redis through which replicas share limits and responses, in the
    /// namespaces of the resources [default: a shared limit is divided among the replicas]
    #[arg(long, value_name = "NAME/KEY", env = "PHASE6_REDIS_SECRET")]
    redis_secret: Option<SecretKey>,

    /// OpenTelemetry collector that services send finished spans to: http://HOST:PORT, or https:// for TLS.
    /// Pods may connect to its port [default: services send no spans]
    #[arg(long, value_name = "URL", env = "PHASE6_OTLP_ENDPOINT")]
    otlp_endpoint: Option<Endpoint>,

    /// Protocol of the collector
    #[arg(
        long, value_name = "PROTOCOL", env = "PHASE6_OTLP_PROTOCOL", default_value = "http/protobuf",
        value_parser = ["http/protobuf", "grpc"]
    )]
    otlp_protocol: String,

    /// Secret and key of the headers that the collector requires, NAME=VALUE[,NAME=VALUE], in the
    /// namespaces of the resources
    #[arg(long, value_name = "NAME/KEY", env = "PHASE6_OTLP_HEADERS_SECRET")]
    otlp_headers_secret: Option<SecretKey>,

    /// Labels of the ServiceMonitors, by which a Prometheus selects them
    #[arg(
        long, value_name = "NAME=VALUE", value_delimiter = ',', env = "PHASE6_MONITOR_LABELS",
        value_parser = parse_label
    )]
    monitor_labels: Vec<(String, String)>,

    /// Create no NetworkPolicy
    #[arg(long, env = "PHASE6_NO_NETWORK_POLICY")]
    no_network_policy: bool,

    /// Ports that services may connect to besides those of peers, DNS and the API server
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        env = "PHASE6_EGRESS_PORTS",
        default_value = "443,5432,6379"
    )]
    egress_ports: Vec<u16>,

    /// Longest time in which a terminating pod still accepts connections, while it is not ready and asks
    /// callers to reconnect, in seconds from 0 to 300. The time ends early once no connection is left. A
    /// connection still idle at its end is closed, and a caller that just then reuses it loses a request:
    /// longer than the 90 seconds for which most clients keep an idle connection
    #[arg(
        long, value_name = "SECONDS", env = "PHASE6_STOP_NOTICE", default_value_t = 95,
        value_parser = clap::value_parser!(u16).range(0..=300)
    )]
    stop_notice: u16,

    /// Time after which a settled resource is compared with its objects again, in seconds from 1 to 3600
    #[arg(
        long, value_name = "SECONDS", env = "PHASE6_RESYNC", default_value_t = 60,
        value_parser = clap::value_parser!(u16).range(1..=3600)
    )]
    resync: u16,

    /// Namespace of the operator and of its Lease
    #[arg(long, value_name = "NAME", default_value = "phase6-system", env = "PHASE6_NAMESPACE")]
    namespace: String,

    /// Name of the operator's pod, which identifies it in the Lease and in events
    #[arg(long, value_name = "NAME", default_value = "phase6-operator", env = "PHASE6_POD_NAME")]
    pub(crate) pod_name: String,

    /// Run without leader election, as the only replica
    #[arg(long)]
    pub(crate) no_election: bool,

    /// Address that serves /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080", env = "PHASE6_OPERATOR_BIND")]
    pub(crate) bind: SocketAddr,
}

impl Settings {
    /// Returns the scopes to watch, each by its own controller.
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

    /// Returns the time after which a settled resource is reconciled again.
    pub(crate) fn resync(&self) -> Duration {
        Duration::from_secs(self.resync.into())
    }

    /// Returns the namespace of the operator.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the options of the build stage for a cluster with or without the kind `ServiceMonitor`.
    pub(crate) fn build_options(&self, service_monitors: bool) -> BuildOptions {
        BuildOptions {
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
            service_monitors,
            monitor_labels: self.monitor_labels.iter().cloned().collect(),
            stop_notice: self.stop_notice,
        }
    }

    /// Returns the ports that pods may connect to, including that of the collector.
    fn egress_ports(&self) -> Vec<u16> {
        let mut ports = self.egress_ports.clone();
        let collector = self.otlp_endpoint.iter().map(|endpoint| endpoint.port);
        ports.extend(collector.filter(|port| !self.egress_ports.contains(port)));
        ports
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = split.ok_or("accepted: NAME=VALUE of a label")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Settings {
        let all = ["phase6-operator", "--image=i"].iter().chain(arguments);
        Settings::try_parse_from(all).expect("the arguments are accepted")
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Settings::command().debug_assert();
    }

    #[test]
    fn all_namespaces_are_watched_unless_some_are_named() {
        assert_eq!(parse(&[]).scopes(), [Scope::Cluster]);
        let two = [Scope::Namespace("a".into()), Scope::Namespace("b".into())];
        assert_eq!(parse(&["--watch-namespaces=b,a,b"]).scopes(), two);
    }

    #[test]
    fn pods_may_connect_to_the_port_of_the_collector() {
        assert_eq!(parse(&[]).build_options(false).egress_ports, [443, 5432, 6379]);
        for (url, ports) in [
            ("http://collector:4318", &[443, 5432, 6379, 4318][..]),
            ("https://collector.example", &[443, 5432, 6379]),
            ("http://[::1]/otlp", &[443, 5432, 6379, 80]),
        ] {
            let options = parse(&["--otlp-endpoint", url]).build_options(false);
            assert_eq!(options.egress_ports, ports, "{url}");
            assert_eq!(options.collector.expect("an endpoint is given").endpoint.url, url);
        }
    }

    #[test]
    fn service_monitors_carry_the_given_labels() {
        let labels = parse(&["--monitor-labels=release=prometheus,team="]).build_options(true).monitor_labels;
        assert_eq!(labels["release"], "prometheus");
        assert_eq!(labels["team"], "");
        let invalid = ["phase6-operator", "--image=i", "--monitor-labels=release"];
        assert!(Settings::try_parse_from(invalid).is_err());
    }
}
