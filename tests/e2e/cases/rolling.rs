//! Pods are replaced while requests come.

use std::time::Duration;

use phase6_crds::ServiceName;
use serde_json::json;

use crate::fleet::{Fleet, NAMES};

pub async fn a_rolling_update_of_all_services_loses_no_request(fleet: &Fleet) {
    let full = std::env::var_os("PHASE6_E2E_FULL").is_some();
    for name in NAMES {
        fleet.patch(name, json!({"replicas": 2, "rateLimit": null})).await;
    }
    for name in NAMES {
        fleet.settle(name).await;
    }
    let mut urls: Vec<String> = ServiceName::ALL
        .iter()
        .map(|name| {
            format!("http://{name}.{}.svc.cluster.local:{}/api/v1/status", fleet.namespace, name.port())
        })
        .collect();
    // One through the gateway as well, so that its connections to a peer are replaced too.
    urls.push(format!("http://web.{}.svc.cluster.local:3000/api/v1/budget", fleet.namespace));
    let rounds = if full { 3 } else { 1 };
    let count = if full { 50_400 } else { 9_000 };
    fleet.start_load("load-rolling", 200, count, &urls).await;
    for round in 0..rounds {
        for name in NAMES {
            // Another template: memory that differs by a little.
            let memory = format!("{}Mi", 257 + round);
            let resources =
                json!({"requests": {"cpu": "20m", "memory": "48Mi"}, "limits": {"memory": memory}});
            fleet.patch(name, json!({ "resources": resources })).await;
        }
        for name in NAMES {
            fleet.settle(name).await;
        }
    }
    let load = fleet.end_load("load-rolling", Duration::from_secs(count / 200 + 120)).await;
    println!(
        "rolling update of all eight under {} requests at 200/s: {:?}, p50 {:.1} ms, p99 {:.1} ms",
        load.sent, load.results, load.p50, load.p99
    );
    assert_eq!(load.results.get("200"), Some(&load.sent), "{load:?}");
    for name in NAMES {
        fleet.patch(name, json!({"replicas": 1, "resources": null})).await;
    }
    fleet.patch("budget", json!({"rateLimit": {"capacity": 100, "refillPerSecond": 10}})).await;
    fleet.patch("web", json!({"rateLimit": {"capacity": 1000, "refillPerSecond": 100}})).await;
    for name in NAMES {
        fleet.settle(name).await;
    }
}
