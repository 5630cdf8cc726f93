//! An operator that is killed before and after each of its writes.

use serde_json::{Value, json};

use super::is_full;
use crate::{
    api_proxy::{ApiProxy, KillPoint},
    fleet::{Fleet, SOON, condition},
    kubernetes::{get, run, try_run, wait_until},
};

const NAMESPACE: &str = "phase6-e2e-killed";
/// A run in CI tries one of this number of kill points.
const SPARSE: usize = 5;

/// Number of edits: a resource is created, gets an autoscaler and another limit, gets a fixed number of replicas
/// again, and its pod template changes.
const EDITS: usize = 4;

/// Returns the spec, or the patch of it, of an edit.
fn edit(number: usize) -> Value {
    match number {
        0 => {
            json!({"service": "reports", "replicas": 0, "rateLimit": {"capacity": 10, "refillPerSecond": 1}})
        }
        1 => {
            json!({"replicas": null, "autoscaling": {"minReplicas": 1, "maxReplicas": 2}, "rateLimit": {"capacity": 20}})
        }
        2 => json!({"replicas": 0, "autoscaling": null, "cache": {"ttl": "7s"}}),
        _ => json!({"rateLimit": null, "resources": {"requests": {"cpu": "10m"}}}),
    }
}

struct Harness<'a> {
    fleet: &'a Fleet,
    proxy: ApiProxy,
}

/// Result of all edits of one resource.
struct Outcome {
    /// All objects of the resource.
    objects: Value,
    /// Number of writes by the operator that was started last.
    writes: u32,
}

impl Harness<'_> {
    async fn objects(&self, api: &str, kind: &str) -> Vec<Value> {
        let list = get(&self.fleet.client, &format!("/{api}/namespaces/{NAMESPACE}/{kind}")).await.unwrap();
        list["items"].as_array().unwrap().clone()
    }

    async fn resource(&self, name: &str) -> Option<Value> {
        let path = format!("/apis/phase6.dev/v1alpha1/namespaces/{NAMESPACE}/phase6services/{name}");
        get(&self.fleet.client, &path).await.ok()
    }

    /// Makes all edits. An operator that is killed meanwhile is replaced by another one.
    async fn run(&self, name: &str, kill_point: Option<KillPoint>) -> Outcome {
        self.proxy.start_operator(kill_point);
        let mut was_killed = false;
        for number in 0..EDITS {
            let resource = json!({
                "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service",
                "metadata": {"name": name}, "spec": edit(number),
            });
            if number == 0 {
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(file.path(), resource.to_string()).unwrap();
                run("kubectl", &["create", "-n", NAMESPACE, "-f", &file.path().to_string_lossy()]).await;
            } else {
                let patch = json!({ "spec": resource["spec"] }).to_string();
                run("kubectl", &["patch", "-n", NAMESPACE, "p6", name, "--type=merge", "-p", &patch]).await;
            }
            wait_until(&format!("edit {number} of {name} is observed, {kill_point:?}"), SOON, || async {
                if !self.proxy.operator_is_running() {
                    return Some(());
                }
                let resource = self.resource(name).await?;
                let is_observed =
                    resource["status"]["observedGeneration"] == resource["metadata"]["generation"];
                is_observed.then_some(())
            })
            .await;
            if !self.proxy.operator_is_running() && !was_killed {
                // The next edit does not wait until this one is complete.
                was_killed = true;
                self.proxy.start_operator(None);
            }
        }
        let objects = wait_until(&format!("{name} settles, {kill_point:?}"), SOON, || async {
            if !self.proxy.operator_is_running() {
                self.proxy.start_operator(None);
            }
            let resource = self.resource(name).await?;
            let applied = condition(&resource, "PolicyApplied")?;
            let is_applied = applied["status"] == "True"
                && applied["observedGeneration"] == resource["metadata"]["generation"]
                && resource["status"]["observedGeneration"] == resource["metadata"]["generation"];
            let objects = self.objects_of(name).await;
            (is_applied
                && objects["autoscalers"] == json!([])
                && objects["deployments"][0]["spec"]["replicas"] == 0)
                .then_some(objects)
        })
        .await;
        let writes = self.proxy.writes();
        self.proxy.stop_operator().await;
        Outcome { objects, writes }
    }

    /// Returns all objects of a resource, without fields that differ between two installations.
    async fn objects_of(&self, name: &str) -> Value {
        let mut found = json!({});
        for (key, api, kind) in [
            ("policies", "api/v1", "configmaps"),
            ("services", "api/v1", "services"),
            ("accounts", "api/v1", "serviceaccounts"),
            ("deployments", "apis/apps/v1", "deployments"),
            ("autoscalers", "apis/autoscaling/v2", "horizontalpodautoscalers"),
            ("networks", "apis/networking.k8s.io/v1", "networkpolicies"),
            ("budgets", "apis/policy/v1", "poddisruptionbudgets"),
            ("roles", "apis/rbac.authorization.k8s.io/v1", "roles"),
            ("bindings", "apis/rbac.authorization.k8s.io/v1", "rolebindings"),
        ] {
            let mut objects = self.objects(api, kind).await;
            objects.retain(|object| {
                object["metadata"]["labels"]["phase6.dev/resource"] == name
                    && object["metadata"]["deletionTimestamp"].is_null()
            });
            let normalized = objects.into_iter().map(normalized).collect::<Vec<_>>();
            found[key] = serde_json::from_str(&json!(normalized).to_string().replace(name, "NAME")).unwrap();
        }
        found
    }
}

/// Removes the fields that the API server, other controllers and the clock set.
fn normalized(mut object: Value) -> Value {
    let managers = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let managers = managers.iter().map(|entry| entry["manager"].as_str().unwrap_or_default().to_owned());
    let mut managers: Vec<_> = managers.filter(|manager| manager.starts_with("phase6")).collect();
    managers.sort();
    let metadata = object["metadata"].as_object_mut().unwrap();
    for key in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
        metadata.remove(key);
    }
    metadata.insert("managers".into(), json!(managers));
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        // The fingerprint covers the uid of the owner; the revision is a counter of another controller.
        annotations.remove("phase6.dev/applied");
        annotations.remove("deployment.kubernetes.io/revision");
    }
    for owner in metadata["ownerReferences"].as_array_mut().unwrap() {
        owner.as_object_mut().unwrap().remove("uid");
    }
    let object_map = object.as_object_mut().unwrap();
    object_map.remove("status");
    if let Some(spec) = object_map.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    if let Some(policy) = object["data"]["policy.json"].as_str() {
        let document: Value = serde_json::from_str(policy).unwrap();
        object["data"] = json!({ "policy": document["policy"], "replicas": document["replicas"] });
    }
    object
}

pub async fn an_operator_killed_around_any_write_converges_to_a_fresh_install(fleet: &Fleet) {
    // Only the operator behind the proxy watches this namespace.
    let _ = try_run("kubectl", &["create", "namespace", NAMESPACE]).await;
    let harness = Harness { fleet, proxy: ApiProxy::start(&fleet.client, NAMESPACE).await };
    let fresh = harness.run("killed-fresh", None).await;
    let points = (1..=fresh.writes).flat_map(|n| [KillPoint::BeforeWrite(n), KillPoint::AfterWrite(n)]);
    let points: Vec<KillPoint> = points.collect();
    let step = if is_full() { 1 } else { SPARSE };
    let tried: Vec<KillPoint> = points.iter().copied().step_by(step).collect();
    for (number, point) in tried.iter().enumerate() {
        let outcome = harness.run(&format!("killed-{number:03}"), Some(*point)).await;
        assert_eq!(outcome.objects, fresh.objects, "{point:?}");
    }
    println!(
        "{} of {} kill points around {} writes, all with the same outcome",
        tried.len(),
        points.len(),
        fresh.writes
    );
    drop(harness);
    run("kubectl", &["delete", "namespace", NAMESPACE, "--timeout=280s"]).await;
}
