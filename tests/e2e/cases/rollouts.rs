//! Replacement of pods under load.

use std::time::Duration;

use phase6_catalog::SERVICES;
use phase6_tests::services;
use serde_json::json;

use super::is_full;
use crate::{
    fleet::{Fleet, SOON, image},
    kubernetes::wait_until,
};

/// Returns a URL of every service, and one through the gateway, whose connections to its peer are replaced too.
fn urls(fleet: &Fleet) -> Vec<String> {
    let at = |name: &str, port: u16, path: &str| {
        format!("http://{name}.{}.svc.cluster.local:{port}{path}", fleet.namespace)
    };
    let urls = SERVICES.iter().map(|service| at(service.name, service.port, "/api/v1/status"));
    urls.chain([at("web", 3000, "/api/v1/budget")]).collect()
}

pub async fn an_upgrade_of_the_release_loses_no_request(fleet: &Fleet) {
    fleet.helm_upgrade(&["--set", "demo.replicas=2"]).await;
    fleet.settle_all().await;
    fleet.start_load("load-upgrade", 200, 8_000, &urls(fleet)).await;
    let next = image("PHASE6_E2E_NEXT");
    let (_, tag) = next.rsplit_once(':').unwrap();
    fleet.helm_upgrade(&["--set", "demo.replicas=2", "--set", &format!("image.tag={tag}")]).await;
    fleet.kubectl(&["rollout", "status", "deployment/phase6-operator", "--timeout=120s"]).await;
    for name in services() {
        wait_until("the Deployment has the new image", SOON, || async {
            let deployment = fleet.deployment(name).await;
            (deployment["spec"]["template"]["spec"]["containers"][0]["image"] == next).then_some(())
        })
        .await;
        fleet.kubectl(&["rollout", "status", &format!("deployment/{name}"), "--timeout=120s"]).await;
        fleet.settle(name).await;
    }
    let load = fleet.end_load("load-upgrade", Duration::from_mins(3)).await;
    println!("helm upgrade under {} requests at 200/s: {:?}", load.sent, load.results);
    // The limits of the demo are in force, so 429 is a valid response.
    let responses: u64 = ["200", "429"].iter().filter_map(|status| load.results.get(*status)).sum();
    assert_eq!(responses, load.sent, "{load:?}");
    fleet.helm_install().await;
    fleet.settle_all().await;
}

pub async fn a_rolling_update_of_all_services_loses_no_request(fleet: &Fleet) {
    for name in services() {
        fleet.patch(name, json!({"replicas": 2, "rateLimit": null})).await;
    }
    fleet.settle_all().await;
    let rounds = if is_full() { 3 } else { 1 };
    let count = if is_full() { 50_400 } else { 9_000 };
    fleet.start_load("load-rolling", 200, count, &urls(fleet)).await;
    for round in 0..rounds {
        for name in services() {
            // A slightly different memory limit changes the pod template.
            let memory = format!("{}Mi", 257 + round);
            let resources =
                json!({"requests": {"cpu": "20m", "memory": "48Mi"}, "limits": {"memory": memory}});
            fleet.patch(name, json!({ "resources": resources })).await;
        }
        fleet.settle_all().await;
    }
    let load = fleet.end_load("load-rolling", Duration::from_secs(count / 200 + 120)).await;
    println!(
        "rolling update of all eight services under {} requests at 200/s: {:?}, p50 {:.1} ms, p99 {:.1} ms",
        load.sent, load.results, load.p50, load.p99
    );
    assert_eq!(load.results.get("200"), Some(&load.sent), "{load:?}");
    for name in services() {
        fleet.patch(name, json!({"replicas": 1, "resources": null})).await;
    }
    fleet.patch("budget", json!({"rateLimit": {"capacity": 100, "refillPerSecond": 10}})).await;
    fleet.patch("web", json!({"rateLimit": {"capacity": 1000, "refillPerSecond": 100}})).await;
    fleet.settle_all().await;
}
