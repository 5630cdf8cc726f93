//! The catalog of services: name, port, path prefixes, peers, and one sentence each.
//!
//! Every other list of services in the repository derives from [`SERVICES`]: the values that
//! `spec.service` accepts, the services that `phase6 up` runs, the routing table of the gateway, the
//! peers that the operator configures, the example fleet and the chart's demo. Does no I/O.

mod name;
mod services;

pub use name::{ServiceName, UnknownService};

/// One service of the fleet.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// Name in resources, metrics, DNS and command lines.
    pub name: &'static str,
    /// Default port, between 3000 and 3999.
    pub port: u16,
    /// Path prefixes, by whole segments, that the gateway forwards to the service.
    pub prefixes: &'static [&'static str],
    /// Services that this service calls.
    pub peers: Peers,
    /// Purpose, in one sentence.
    pub about: &'static str,
}

/// Services that a service calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// All services but itself. Only the gateway has this.
    EveryOther,
    /// The services of these names.
    Only(&'static [&'static str]),
}

macro_rules! rows {
    ($({
        name: $name:literal,
        package: $package:ident,
        port: $port:literal,
        prefixes: [$($prefix:literal),* $(,)?],
        peers: $peers:ident $(([$($peer:literal),* $(,)?]))?,
        about: $about:literal $(,)?
    })*) => {
        &[$(Service {
            name: $name,
            port: $port,
            prefixes: &[$($prefix),*],
            peers: Peers::$peers $((&[$($peer),*]))?,
            about: $about,
        }),*]
    };
}

/// Every service, in the order of their ports.
pub const SERVICES: &[Service] = services!(rows);

/// Lowest port of the default range; `phase6 up --base-port` shifts the whole range.
pub const BASE_PORT: u16 = 3000;

impl Service {
    /// Returns the service called `name`.
    pub fn find(name: &str) -> Option<&'static Self> {
        SERVICES.iter().find(|service| service.name == name)
    }

    /// Returns the service called `name`, at compile time.
    ///
    /// # Panics
    ///
    /// If the catalog has no such service, which fails the build where the result is a constant.
    pub const fn named(name: &str) -> &'static Self {
        let mut index = 0;
        while index < SERVICES.len() {
            if is_same(SERVICES[index].name, name) {
                return &SERVICES[index];
            }
            index += 1;
        }
        panic!("the catalog has no service of this name");
    }

    /// Returns the service that owns `path`: the one with the longest prefix that matches by whole
    /// segments.
    pub fn owning(path: &str) -> Option<&'static Self> {
        let matches = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let prefixes = SERVICES
            .iter()
            .flat_map(|service| service.prefixes.iter().map(move |prefix| (prefix.len(), service, prefix)));
        prefixes
            .filter(|(_, _, prefix)| matches(prefix))
            .max_by_key(|(length, _, _)| *length)
            .map(|(_, service, _)| service)
    }

    /// Services that this service calls, in the order of the catalog.
    pub fn peers(&self) -> impl Iterator<Item = &'static Self> {
        SERVICES.iter().filter(|other| match self.peers {
            Peers::EveryOther => other.name != self.name,
            Peers::Only(names) => names.contains(&other.name),
        })
    }

    /// True for the gateway, which accepts connections from outside of the fleet.
    pub const fn is_gateway(&self) -> bool {
        matches!(self.peers, Peers::EveryOther)
    }

    /// Port in a fleet whose ports begin at `base_port`.
    pub const fn port_from(&self, base_port: u16) -> u16 {
        self.port - BASE_PORT + base_port
    }
}

/// Names of all services, separated by commas, for messages.
pub fn names() -> String {
    SERVICES.iter().map(|service| service.name).collect::<Vec<_>>().join(", ")
}

/// String equality in constants, where `==` is not available.
const fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut index = 0;
    while index < a.len() {
        if a[index] != b[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn owner(path: &str) -> Option<&'static str> {
        Service::owning(path).map(|service| service.name)
    }

    #[test]
    fn services_have_the_names_and_ports_of_the_design() {
        for (name, port) in [
            ("web", 3000),
            ("training", 3001),
            ("meta", 3002),
            ("budget", 3003),
            ("coach", 3004),
            ("segmentation", 3007),
            ("reports", 3008),
            ("capabilities", 3009),
        ] {
            assert_eq!(Service::find(name).map(|service| service.port), Some(port), "{name}");
        }
        assert!(SERVICES.is_sorted_by_key(|service| service.port), "rows are in the order of their ports");
        assert_eq!(Service::named("budget").port_from(8000), 8003);
    }

    #[test]
    fn names_ports_and_prefixes_are_unique() {
        let count = SERVICES.len();
        assert_eq!(SERVICES.iter().map(|service| service.name).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(SERVICES.iter().map(|service| service.port).collect::<BTreeSet<_>>().len(), count);
        let prefixes: Vec<_> = SERVICES.iter().flat_map(|service| service.prefixes).collect();
        assert_eq!(prefixes.iter().collect::<BTreeSet<_>>().len(), prefixes.len());
        for service in SERVICES {
            assert!((3000..4000).contains(&service.port), "{}", service.name);
            assert!(service.prefixes.iter().all(|prefix| prefix.starts_with("/api/")), "{}", service.name);
        }
    }

    #[test]
    fn every_peer_is_in_the_catalog() {
        for service in SERVICES {
            if let Peers::Only(names) = service.peers {
                assert_eq!(service.peers().count(), names.len(), "{} calls {names:?}", service.name);
            }
        }
        let web = Service::named("web");
        assert_eq!(web.peers().count(), SERVICES.len() - 1);
    }

    /// Network policies let everybody call a gateway.
    #[test]
    fn web_is_the_only_gateway() {
        let gateways: Vec<_> = SERVICES.iter().filter(|service| service.is_gateway()).collect();
        assert_eq!(gateways, [Service::named("web")]);
    }

    #[test]
    fn every_prefix_reaches_its_service() {
        for (path, service) in [
            ("/api/v1/training/overview", "training"),
            ("/api/v1/next-domain", "training"),
            ("/api/v4/meta-learning/report", "meta"),
            ("/api/v1/budget", "budget"),
            ("/api/v1/providers/burst", "budget"),
            ("/api/v1/auto-coach/status", "coach"),
            ("/api/v1/segmentation/analyze", "segmentation"),
            ("/api/v1/reports/dashboard", "reports"),
            ("/api/v1/capabilities/list", "capabilities"),
        ] {
            assert_eq!(owner(path), Some(service), "{path}");
        }
    }

    /// The original gateway responded with 502 for all of these, or sent them to a service that had moved.
    #[test]
    fn prefixes_that_the_original_missed_are_routed() {
        for (path, service) in [
            ("/api/v1/challenges/start", "training"),
            ("/api/v1/feedback/summary", "training"),
            ("/api/v1/metrics/record", "training"),
            ("/api/v1/metrics/performance", "training"),
            ("/api/v1/metrics/user/7", "reports"),
            ("/api/v1/badges/leaderboard", "reports"),
            ("/api/v1/personalization/profile/7", "training"),
            ("/api/v1/improvement/analysis", "training"),
            ("/api/v1/present", "reports"),
            ("/api/v1/analytics/dashboard", "reports"),
            ("/api/v1/sources/github/issues/sync", "training"),
            ("/api/v1/providers/costs", "budget"),
            ("/api/v1/providers/recommend", "budget"),
            ("/api/v1/providers/resilience-status", "budget"),
            ("/api/v1/providers/realtime", "budget"),
            ("/api/v1/providers/performance-stream", "budget"),
            ("/api/v1/system/learning-stats", "budget"),
        ] {
            assert_eq!(owner(path), Some(service), "{path}");
        }
    }

    #[test]
    fn prefixes_match_whole_segments() {
        for path in ["/api/v1/trainingX", "/api/v1", "/api/v1/budgets", "/api/v1/unknown", "/api"] {
            assert_eq!(owner(path), None, "{path}");
        }
    }
}
