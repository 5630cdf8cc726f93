//! Edits of the policy under load: the central promise of the product.

use std::time::{Duration, Instant};

use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::is_full;
use crate::{
    fleet::{Fleet, condition, is_true},
    kubernetes::wait_until,
};

fn resources(fleet: &Fleet) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("phase6.dev", "v1alpha1", "Phase6Service");
    Api::namespaced_with(fleet.client.clone(), &fleet.namespace, &ApiResource::from_gvk(&kind))
}

/// Returns the number of edits of a case.
fn edits() -> u32 {
    if is_full() { 100 } else { 30 }
}

pub async fn edits_under_load_restart_no_pod_and_lose_no_request(fleet: &Fleet) {
    fleet
        .patch(
            "budget",
            json!({"replicas": 3, "rateLimit": {"capacity": 100_000, "refillPerSecond": 10_000}}),
        )
        .await;
    fleet.settle("budget").await;
    let template = |deployment: Value| deployment["spec"]["template"].to_string();
    let before = template(fleet.deployment("budget").await);
    let pods = pods_and_restarts(fleet).await;
    let urls = [format!("http://budget.{}.svc.cluster.local:3003/api/v1/status", fleet.namespace)];
    fleet.start_load("load-retune", 100, 1500, &urls).await;
    for edit in 0..edits() {
        let limit = json!({"capacity": 100_000 + edit, "refillPerSecond": 10_000});
        let ttl = format!("{}s", 1 + edit % 9);
        let spec = json!({"rateLimit": limit, "cache": {"ttl": ttl}, "tracing": {"samplingRate": 0.01 * f64::from(edit)}});
        fleet.patch("budget", spec).await;
    }
    let settled = fleet.settle("budget").await;
    assert!(settled["status"]["policy"]["propagationMs"].as_i64().is_some(), "{settled}");
    let load = fleet.end_load("load-retune", Duration::from_mins(1)).await;
    assert_eq!(load.results.get("200"), Some(&load.sent), "{load:?}");
    assert_eq!(pods_and_restarts(fleet).await, pods, "the same pods, none restarted");
    assert_eq!(template(fleet.deployment("budget").await), before, "the pod template is untouched");

    // A limit small enough to measure, which the three pods together admit once.
    wait_until_drained().await;
    fleet.patch("budget", json!({"rateLimit": {"capacity": 30, "refillPerSecond": 0.01}})).await;
    fleet.settle("budget").await;
    let urls = [format!("http://budget.{}.svc.cluster.local:3003/api/v1/budget", fleet.namespace)];
    check_admitted(fleet, "load-limit", 100, &urls, 30).await;
    let spec = json!({"rateLimit": {"capacity": 100, "refillPerSecond": 10}, "cache": {"ttl": "5s"}});
    fleet.patch("budget", spec).await;
    fleet.settle("budget").await;
}

/// Sends 400 requests and checks how many are admitted: the limit, or up to five fewer, because a replica may
/// hold tokens that no request asks it for. If a call to Redis took too long, replicas decided by their shares
/// for a moment, and up to half of the limit more is correct.
async fn check_admitted(fleet: &Fleet, name: &str, rate: u32, urls: &[String], limit: u64) {
    let before = local_decisions(fleet).await;
    fleet.start_load(name, rate, 400, urls).await;
    let load = fleet.end_load(name, Duration::from_mins(1)).await;
    let local = local_decisions(fleet).await - before;
    let admitted = load.results.get("200").copied().unwrap_or(0);
    println!("{admitted} of {limit} admitted, {local} requests decided without Redis");
    assert_eq!(load.results.get("429"), Some(&(load.sent - admitted)), "{load:?}");
    let most = if local > 0 { limit + limit / 2 } else { limit };
    assert!((limit - 5..=most).contains(&admitted), "{load:?}, {local} decided without Redis");
}

/// Returns the number of requests that the replicas of `budget` have decided without Redis.
async fn local_decisions(fleet: &Fleet) -> u64 {
    let mut decisions = 0;
    for pod in fleet.pods("budget").await {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let path = format!("/api/v1/namespaces/{}/pods/{name}:3003/proxy/metrics", fleet.namespace);
        let metrics = fleet.kubectl(&["get", "--raw", &path]).await;
        decisions += metrics
            .lines()
            .filter(|line| line.starts_with("phase6_ratelimit_backend_failure_total{"))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum::<u64>();
    }
    decisions
}

/// Waits until the shared bucket is full again: replicas without requests report their use after a second, and
/// 10,000 tokens per second come back.
async fn wait_until_drained() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

async fn pods_and_restarts(fleet: &Fleet) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = fleet
        .pods("budget")
        .await
        .iter()
        .map(|pod| {
            let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0);
            (pod["metadata"]["uid"].as_str().unwrap().to_owned(), restarts)
        })
        .collect();
    all.sort();
    all
}

pub async fn policy_applied_is_true_only_once_every_pod_enforces_the_revision(fleet: &Fleet) {
    fleet.patch("budget", json!({"replicas": 3})).await;
    fleet.settle("budget").await;
    let resources = resources(fleet);
    let pods: Vec<String> = fleet
        .pods("budget")
        .await
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    let mut durations_ms = Vec::new();
    let mut propagations_ms = Vec::new();
    for edit in 0..edits() {
        let patch = json!({"spec": {"rateLimit": {"capacity": 200 + edit}}});
        let patched =
            resources.patch("budget", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let start = Instant::now();
        let generation = patched.metadata.generation.unwrap();
        let resource = loop {
            let resource = serde_json::to_value(resources.get("budget").await.unwrap()).unwrap();
            assert_eq!(resource["metadata"]["generation"], generation, "another client edited the resource");
            if is_true(&resource, "PolicyApplied") {
                break resource;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{resource}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        durations_ms.push(start.elapsed().as_secs_f64() * 1e3);
        propagations_ms.push(resource["status"]["policy"]["propagationMs"].as_i64().unwrap());
        // Once the status reports the revision as applied, every pod must enforce it.
        let revision = resource["status"]["policy"]["revision"].as_u64().unwrap();
        for pod in &pods {
            let state = fleet.get_from_pod(pod, 3003, "/policyz").await.unwrap();
            assert!(state["revision"].as_u64().unwrap() >= revision, "{pod}: {state}");
        }
    }
    durations_ms.sort_by(f64::total_cmp);
    propagations_ms.sort_unstable();
    let quantile = |share: f64| durations_ms[((durations_ms.len() - 1) as f64 * share) as usize];
    println!(
        "from the end of a patch to the confirmed status, {} edits, three replicas: p50 {:.0} ms, p99 {:.0} ms; \
         from publishing to agreement: p50 {} ms, p99 {} ms",
        durations_ms.len(),
        quantile(0.5),
        quantile(0.99),
        propagations_ms[propagations_ms.len() / 2],
        propagations_ms[(propagations_ms.len() - 1) * 99 / 100],
    );
    let events =
        fleet.kubectl(&["get", "events", "--field-selector=involvedObject.name=budget", "-o", "json"]).await;
    let events: Value = serde_json::from_str(&events).unwrap();
    let notes: Vec<&str> =
        events["items"].as_array().unwrap().iter().filter_map(|event| event["message"].as_str()).collect();
    assert!(notes.iter().any(|note| note.contains("rateLimit.capacity 200 -> 201")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("is enforced by all 3 ready replicas")), "{notes:?}");
}

/// The demo has a Redis, so all replicas together admit a limit once, however requests are distributed.
pub async fn replicas_together_admit_a_shared_limit_once(fleet: &Fleet) {
    let urls = [format!("http://budget.{}.svc.cluster.local:3003/api/v1/budget", fleet.namespace)];
    // With this rate the tokens used by earlier cases are back before the measurement.
    let spec = json!({"replicas": 3, "rateLimit": {"capacity": 100_000, "refillPerSecond": 10_000}});
    fleet.patch("budget", spec).await;
    fleet.settle("budget").await;
    fleet.start_load("load-shared", 50, 100, &urls).await;
    fleet.end_load("load-shared", Duration::from_mins(1)).await;
    wait_until_drained().await;
    fleet.patch("budget", json!({"rateLimit": {"capacity": 40, "refillPerSecond": 0.01}})).await;
    let resource = fleet.settle("budget").await;
    assert_eq!(resource["status"]["policy"]["applied"], "3/3");
    assert_eq!(resource["status"]["policy"]["dividedBy"], 1);
    // A replica without requests returns its tokens after a second.
    check_admitted(fleet, "load-shared", 50, &urls, 40).await;
    let again = format!("{}?again", urls[0]);
    fleet.start_load("load-shared", 50, 100, &[again]).await;
    let load = fleet.end_load("load-shared", Duration::from_mins(1)).await;
    assert!(load.results.get("200").copied().unwrap_or(0) <= 1, "no token remains: {load:?}");
    fleet.kubectl(&["scale", "deployment/phase6-demo-redis", "--replicas=0"]).await;
    fleet.patch("budget", json!({"rateLimit": {"onBackendFailure": "Allow"}})).await;
    fleet.settle("budget").await;
    wait_until("replicas admit every request without Redis", Duration::from_mins(1), || async {
        fleet.start_load("load-shared", 50, 50, &urls).await;
        let load = fleet.end_load("load-shared", Duration::from_mins(1)).await;
        (load.results.get("200") == Some(&load.sent)).then_some(())
    })
    .await;
    fleet.kubectl(&["scale", "deployment/phase6-demo-redis", "--replicas=1"]).await;
    fleet.kubectl(&["rollout", "status", "deployment/phase6-demo-redis", "--timeout=60s"]).await;
    let spec = json!({"replicas": 1, "rateLimit": {
        "capacity": 100, "refillPerSecond": 10, "onBackendFailure": "LocalShare"}});
    fleet.patch("budget", spec).await;
    let resource = fleet.settle("budget").await;
    assert!(condition(&resource, "Degraded").is_some_and(|condition| condition["status"] == "False"));
}
