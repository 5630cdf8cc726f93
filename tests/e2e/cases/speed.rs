//! How long many resources take, and how much memory they cost the operator. Figures are printed, never
//! asserted.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    fleet::{Fleet, is_true},
    kubernetes::{get, run, until},
};

/// Namespace of its resources.
pub const NAMESPACE: &str = "phase6-e2e-many";

pub async fn many_resources_reach_their_state(fleet: &Fleet) {
    let count = if std::env::var_os("PHASE6_E2E_FULL").is_some() { 1000 } else { 100 };
    let mut text = String::new();
    for i in 0..count {
        let resource = json!({
            "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service",
            "metadata": {"name": format!("many-{i}")},
            "spec": {"service": "reports", "replicas": 0, "rateLimit": {"capacity": 1 + i, "refillPerSecond": 1}},
        });
        let _ = writeln!(text, "---\n{resource}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let before = memory(fleet).await;
    let begun = Instant::now();
    let path = file.path().to_string_lossy().into_owned();
    run("kubectl", &["create", "--namespace", NAMESPACE, "--filename", &path]).await;
    let created = begun.elapsed();
    until("all are brought about", Duration::from_mins(10), || async {
        let path = format!("/apis/phase6.dev/v1alpha1/namespaces/{NAMESPACE}/phase6services");
        let list = get(&fleet.client, &path).await.ok()?;
        let all = list["items"].as_array()?;
        let done = all.iter().filter(|resource| is_true(resource, "PolicyApplied")).count();
        (done == count).then_some(())
    })
    .await;
    let took = begun.elapsed();
    let after = memory(fleet).await;
    println!(
        "{count} resources of no replicas: created in {:.1} s, all brought about after {:.1} s, {:.0} a second; \
         the operator's memory {before:.0} -> {after:.0} MiB",
        created.as_secs_f64(),
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64(),
    );
    run("kubectl", &["delete", "namespace", NAMESPACE, "--timeout=280s"]).await;
}

/// What the operator's replicas hold at most, in MiB, as their node counts it.
async fn memory(fleet: &Fleet) -> f64 {
    until("the operator's memory is known", Duration::from_mins(2), || async {
        let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", fleet.namespace);
        let list = get(&fleet.client, &path).await.ok()?;
        let of_operator = list["items"].as_array()?.iter().filter(|pod| {
            pod["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("phase6-operator"))
        });
        let kibibytes = of_operator.filter_map(|pod| {
            pod["containers"][0]["usage"]["memory"].as_str()?.strip_suffix("Ki")?.parse::<f64>().ok()
        });
        kibibytes.reduce(f64::max).map(|most| most / 1024.0)
    })
    .await
}
