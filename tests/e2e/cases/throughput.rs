//! Time and memory that the operator needs for many resources. The figures are printed, never asserted.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use serde_json::json;

use super::is_full;
use crate::{
    fleet::{Fleet, is_true},
    kubernetes::{get, run, wait_until},
};

/// Namespace of the resources.
pub const NAMESPACE: &str = "phase6-e2e-many";

pub async fn many_resources_reach_their_final_state(fleet: &Fleet) {
    let count = if is_full() { 1000 } else { 100 };
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
    let start = Instant::now();
    let path = file.path().to_string_lossy().into_owned();
    run("kubectl", &["create", "--namespace", NAMESPACE, "--filename", &path]).await;
    let created = start.elapsed();
    wait_until("every policy is applied", Duration::from_mins(10), || async {
        let path = format!("/apis/phase6.dev/v1alpha1/namespaces/{NAMESPACE}/phase6services");
        let list = get(&fleet.client, &path).await.ok()?;
        let all = list["items"].as_array()?;
        let applied = all.iter().filter(|resource| is_true(resource, "PolicyApplied")).count();
        (applied == count).then_some(())
    })
    .await;
    let duration = start.elapsed();
    let after = memory(fleet).await;
    println!(
        "{count} resources without replicas: created in {:.1} s, all applied after {:.1} s, {:.0} per second; \
         memory of the operator {before:.0} -> {after:.0} MiB",
        created.as_secs_f64(),
        duration.as_secs_f64(),
        count as f64 / duration.as_secs_f64(),
    );
    run("kubectl", &["delete", "namespace", NAMESPACE, "--timeout=280s"]).await;
}

/// Returns the memory in MiB of the operator's largest replica, as its node measures it.
async fn memory(fleet: &Fleet) -> f64 {
    wait_until("the memory of the operator is known", Duration::from_mins(2), || async {
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
