//! One row per service, in the order of their ports. The only list of services in the repository.
//!
//! A new service is a folder below `services/`, a row here, and the line in `crates/runner/Cargo.toml`
//! that makes its package a dependency.

/// Invokes the macro `$callback` with every row of the catalog.
///
/// `package` is the Rust path of the crate that exports `SERVICE`; the runner collects those. The other
/// columns become the fields of [`Service`](crate::Service).
#[macro_export]
macro_rules! services {
    ($callback:ident) => {
        $callback! {
            {
                name: "web",
                package: phase6_web,
                port: 3000,
                prefixes: [],
                peers: EveryOther,
                about: "The gateway: limits clients, forwards API calls to the service that owns the path, \
                        and reports which services are ready.",
            }
            {
                name: "training",
                package: phase6_training,
                port: 3001,
                prefixes: [
                    "/api/v1/training",
                    "/api/v1/next-domain",
                    "/api/v1/challenges",
                    "/api/v1/sources",
                    "/api/v1/feedback",
                    "/api/v1/personalization",
                    "/api/v1/improvement",
                    "/api/v1/metrics/record",
                    "/api/v1/metrics/performance",
                ],
                peers: Only([]),
                about: "Chooses what to practice next, grades answers, and tracks mastery.",
            }
            {
                name: "meta",
                package: phase6_meta,
                port: 3002,
                prefixes: ["/api/v4/meta-learning"],
                peers: Only([]),
                about: "Measures how learning progresses: phases, plateaus, strategies, insights.",
            }
            {
                name: "budget",
                package: phase6_budget,
                port: 3003,
                prefixes: ["/api/v1/budget", "/api/v1/providers", "/api/v1/system/learning-stats"],
                peers: Only([]),
                about: "Routes calls to AI providers within a daily budget, and reports their status and cost.",
            }
            {
                name: "coach",
                package: phase6_coach,
                port: 3004,
                prefixes: ["/api/v1/auto-coach"],
                peers: Only([]),
                about: "Runs the automatic coaching loop.",
            }
            {
                name: "segmentation",
                package: phase6_segmentation,
                port: 3007,
                prefixes: ["/api/v1/segmentation"],
                peers: Only([]),
                about: "Finds segments, patterns, traits and cohorts in conversations.",
            }
            {
                name: "reports",
                package: phase6_reports,
                port: 3008,
                prefixes: [
                    "/api/v1/reports",
                    "/api/v1/metrics",
                    "/api/v1/badges",
                    "/api/v1/analytics",
                    "/api/v1/present",
                ],
                peers: Only([]),
                about: "Reports and analytics over the data of all services.",
            }
            {
                name: "capabilities",
                package: phase6_capabilities,
                port: 3009,
                prefixes: ["/api/v1/capabilities"],
                peers: Only([]),
                about: "Registry of the methods that services offer: discovery, activation, history.",
            }
        }
    };
}
