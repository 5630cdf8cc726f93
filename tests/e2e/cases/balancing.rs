//! Distribution of requests over the pods of a peer while they start and stop.

use std::{collections::BTreeMap, time::Duration};

use http::Request;
use serde_json::json;

use crate::{
    fleet::{Fleet, SOON},
    kubernetes::wait_until,
};

/// Requests per second of the load.
const RATE: u32 = 100;
/// Number of requests of the load.
const REQUESTS: u64 = 12_000;

/// Returns the number of requests of the load that each pod of `budget` has handled.
async fn handled(fleet: &Fleet) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for pod in fleet.pods("budget").await {
        let pod = pod["metadata"]["name"].as_str().unwrap().to_owned();
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:3003/proxy/metrics", fleet.namespace);
        // A pod that is starting or stopping may not respond.
        if let Ok(text) = fleet.client.request_text(Request::get(path).body(vec![]).unwrap()).await {
            let is_load_series = |line: &&str| {
                line.starts_with("phase6_http_requests_total{") && line.contains(r#"route="/api/v1/budget""#)
            };
            let counts = text
                .lines()
                .filter(is_load_series)
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            all.insert(pod, counts.sum());
        }
    }
    all
}

/// Waits until this number of further requests is handled by exactly `replicas` pods. Returns the share of each.
async fn shares(fleet: &Fleet, replicas: usize, requests: f64) -> Vec<f64> {
    let before = handled(fleet).await;
    wait_until(&format!("{replicas} pods have handled {requests} requests"), SOON, || async {
        let now = handled(fleet).await;
        let more = |pod: &String| now[pod] - before.get(pod).copied().unwrap_or_default();
        let shares: Vec<f64> = now.keys().map(more).collect();
        (shares.len() == replicas && shares.iter().sum::<f64>() >= requests).then_some(shares)
    })
    .await
}

pub async fn every_ready_pod_of_a_peer_gets_its_share_and_a_stopping_pod_loses_no_request(fleet: &Fleet) {
    fleet.patch("web", json!({"replicas": 1, "rateLimit": null})).await;
    fleet.patch("budget", json!({"replicas": 2, "rateLimit": null})).await;
    for name in ["web", "budget"] {
        fleet.settle(name).await;
    }
    let url = format!("http://web.{}.svc.cluster.local:3000/api/v1/budget", fleet.namespace);
    fleet.start_load("load-spread", RATE, REQUESTS, &[url]).await;
    // A new pod gets fewer requests for its first ten seconds, which are skipped here.
    shares(fleet, 2, 1_200.0).await;
    let two = shares(fleet, 2, 800.0).await;
    assert!(two.iter().all(|share| *share >= 80.0), "{two:?}");

    fleet.patch("budget", json!({"replicas": 3})).await;
    fleet.settle("budget").await;
    shares(fleet, 3, 1_200.0).await;
    let three = shares(fleet, 3, 900.0).await;
    assert!(three.iter().all(|share| *share >= 60.0), "{three:?}");

    fleet.patch("budget", json!({"replicas": 1})).await;
    fleet.settle("budget").await;
    let load = fleet.end_load("load-spread", Duration::from_mins(4)).await;
    println!(
        "two, three and one pods under {} requests at {RATE}/s: {:?}; shares of two {two:?}, of three {three:?}",
        load.sent, load.results
    );
    assert_eq!(load.results.get("200"), Some(&load.sent), "{load:?}");

    fleet.patch("budget", json!({"rateLimit": {"capacity": 100, "refillPerSecond": 10}})).await;
    fleet.patch("web", json!({"rateLimit": {"capacity": 1000, "refillPerSecond": 100}})).await;
    for name in ["web", "budget"] {
        fleet.settle(name).await;
    }
}
