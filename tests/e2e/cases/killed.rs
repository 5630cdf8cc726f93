//! The operator killed at every point at which it can matter: around each of its writes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    fleet::{Fleet, SOON, condition},
    gate::{Blow, Gate},
    kubernetes::{get, run, try_run, until},
};

const NAMESPACE: &str = "phase6-e2e-killed";
/// Of so many points in CI one is tried.
const SPARSE: usize = 5;

/// A resource is made, given to an autoscaler with another limit, taken back, and its pods are changed.
const EDITS: usize = 4;

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

struct Stage<'a> {
    fleet: &'a Fleet,
    gate: Gate,
}

impl Stage<'_> {
    async fn objects(&self, api: &str, kind: &str) -> Vec<Value> {
        let list = get(&self.fleet.client, &format!("/{api}/namespaces/{NAMESPACE}/{kind}")).await.unwrap();
        list["items"].as_array().unwrap().clone()
    }

    async fn resource(&self, name: &str) -> Option<Value> {
        let path = format!("/apis/phase6.dev/v1alpha1/namespaces/{NAMESPACE}/phase6services/{name}");
        get(&self.fleet.client, &path).await.ok()
    }

    /// Goes through all edits; an operator that is killed on the way is followed by another one.
    /// Returns what there is in the end.
    async fn play(&self, name: &str, blow: Option<Blow>) -> (Value, u32) {
        self.gate.start(blow);
        let mut hit = false;
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
            until(&format!("edit {number} of {name} is brought about, {blow:?}"), SOON, || async {
                if !self.gate.runs() {
                    return Some(());
                }
                let resource = self.resource(name).await?;
                let seen = resource["status"]["observedGeneration"] == resource["metadata"]["generation"];
                seen.then_some(())
            })
            .await;
            if !self.gate.runs() && !hit {
                // The next edit does not wait for what this one left.
                hit = true;
                self.gate.start(None);
            }
        }
        let end = until(&format!("{name} settles, {blow:?}"), SOON, || async {
            if !self.gate.runs() {
                self.gate.start(None);
            }
            let resource = self.resource(name).await?;
            let applied = condition(&resource, "PolicyApplied")?;
            let seen = applied["status"] == "True"
                && applied["observedGeneration"] == resource["metadata"]["generation"]
                && resource["status"]["observedGeneration"] == resource["metadata"]["generation"];
            let end = self.picture(name).await;
            (seen && end["autoscalers"] == json!([]) && end["deployments"][0]["spec"]["replicas"] == 0)
                .then_some(end)
        })
        .await;
        let writes = self.gate.writes();
        self.gate.stop().await;
        (end, writes)
    }

    /// Everything that belongs to a resource, without what differs from one install to the next.
    async fn picture(&self, name: &str) -> Value {
        let mut picture = json!({});
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
            let plain = objects.into_iter().map(plain).collect::<Vec<_>>();
            picture[key] = serde_json::from_str(&json!(plain).to_string().replace(name, "NAME")).unwrap();
        }
        picture
    }
}

/// An object without what the API server, other controllers and the clock put into it.
fn plain(mut object: Value) -> Value {
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
        // A fingerprint of what was written, the owner's uid included, and another controller's count.
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

pub async fn an_operator_killed_around_any_write_leaves_what_a_fresh_install_gives(fleet: &Fleet) {
    // No operator but the one behind the gate watches this namespace.
    let _ = try_run("kubectl", &["create", "namespace", NAMESPACE]).await;
    let stage = Stage { fleet, gate: Gate::open(&fleet.client, NAMESPACE).await };
    let (fresh, writes) = stage.play("killed-fresh", None).await;
    let points: Vec<Blow> = (1..=writes).flat_map(|n| [Blow::Before(n), Blow::After(n)]).collect();
    let step = if std::env::var_os("PHASE6_E2E_FULL").is_some() { 1 } else { SPARSE };
    let tried: Vec<Blow> = points.iter().copied().step_by(step).collect();
    for (number, blow) in tried.iter().enumerate() {
        let (end, _) = stage.play(&format!("killed-{number:03}"), Some(*blow)).await;
        assert_eq!(end, fresh, "{blow:?}");
    }
    println!("{} of {} points around {writes} writes, all with one outcome", tried.len(), points.len());
    drop(stage);
    let patience = Duration::from_secs(280).as_secs();
    run("kubectl", &["delete", "namespace", NAMESPACE, &format!("--timeout={patience}s")]).await;
}
