//! One release of the chart with its demo, and operations on it.

use std::{collections::BTreeMap, time::Duration};

use kube::Client;
use phase6_tests::{root, services};
use serde_json::{Value, json};

use crate::{
    cases::{self, Lane},
    kubernetes::{get, run, try_run, wait_until},
};

/// Longest wait for pods to start or stop, and for the operator to react.
pub const SOON: Duration = Duration::from_mins(2);

/// Release that `cargo xtask demo` installs.
const DEMO: (&str, &str) = ("phase6", "default");
/// Pod security standard that every namespace of the suite enforces.
const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted";

/// Values of a release that reserves little.
const SMALL_REQUESTS: [&str; 2] = ["demo.resources.requests.cpu=5m", "operator.resources.requests.cpu=5m"];

/// One release and its namespace.
pub struct Fleet {
    pub client: Client,
    pub namespace: String,
    /// Other namespaces that its operator watches.
    extra: &'static [&'static str],
    /// Name of the release.
    pub release: String,
    /// Time between two reconciles of a settled resource by its operator.
    pub resync: Duration,
    /// Values of the release besides the images.
    settings: Vec<String>,
}

/// Results of a load.
#[derive(Debug)]
pub struct Load {
    pub sent: u64,
    /// Number of requests by status code, or by kind of failure.
    pub results: BTreeMap<String, u64>,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
}

/// Returns the image that an environment variable names.
pub fn image(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names an image that the cluster can fetch"))
}

/// Returns the values of a release in a test cluster: the images that `cargo xtask` makes.
pub fn values() -> Vec<String> {
    let phase6 = image("PHASE6_E2E_IMAGE");
    let (repository, tag) = phase6.rsplit_once(':').unwrap();
    [
        format!("image.repository={repository}"),
        format!("image.tag={tag}"),
        "image.pullPolicy=IfNotPresent".into(),
        "demo.enabled=true".into(),
        format!("demo.redisImage={}", image("PHASE6_E2E_REDIS")),
        format!("demo.postgresImage={}", image("PHASE6_E2E_POSTGRES")),
    ]
    .into_iter()
    .flat_map(|value| ["--set".to_owned(), value])
    .collect()
}

/// Runs `kubectl apply -f crds/`; returns once its rules are in force.
pub async fn apply_definition() {
    run("kubectl", &["apply", "-f", &root().join("crds").to_string_lossy()]).await;
    let wrong = json!({
        "apiVersion": "phase6.dev/v1alpha1", "kind": "Phase6Service", "metadata": {"name": "wrong"},
        "spec": {"service": "none"},
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), wrong.to_string()).unwrap();
    let path = file.path().to_string_lossy().into_owned();
    wait_until("the rules of the definition are in force", SOON, || async {
        let words = ["apply", "--dry-run=server", "--validate=false", "-f", &path];
        let error = try_run("kubectl", &words).await.err()?;
        error.contains("Unsupported value").then_some(())
    })
    .await;
}

/// Removes the definition, and every resource with it.
pub async fn remove_definition() {
    let crds = root().join("crds").to_string_lossy().into_owned();
    let _ = try_run("kubectl", &["delete", "-f", &crds]).await;
}

/// Limits the operator of the demo, if it is installed, to the namespace of the demo.
pub async fn limit_demo_operator() {
    if try_run("helm", &["status", DEMO.0, "--namespace", DEMO.1]).await.is_ok() {
        let lane = cases::lanes().into_iter().find(Lane::is_demo).expect("a lane for the demo");
        Fleet::of_lane(&lane).await.install().await;
    }
}

/// Removes the releases of all lanes but that of the demo.
pub async fn remove_lanes() {
    for lane in cases::lanes().iter().filter(|lane| !lane.is_demo()) {
        Fleet::of_lane(lane).await.remove().await;
    }
}

impl Fleet {
    /// Returns the release of a lane. Its operator watches the namespaces of the lane only.
    pub async fn of_lane(lane: &Lane) -> Self {
        let (release, namespace) = if lane.is_demo() {
            (DEMO.0.to_owned(), DEMO.1.to_owned())
        } else {
            ("p6".to_owned(), format!("phase6-e2e-{}", lane.name))
        };
        let mut watched = vec![namespace.as_str()];
        watched.extend(lane.namespaces);
        let mut settings = vec![format!("operator.watchNamespaces={{{}}}", watched.join(","))];
        if !lane.is_demo() {
            // The lanes share the processors of one node, which cannot reserve the default requests for all pods.
            settings.extend(SMALL_REQUESTS.map(str::to_owned));
        }
        settings.extend(lane.stop_notice.map(|seconds| format!("operator.stopNoticeSeconds={seconds}")));
        settings.extend(lane.resync.map(|seconds| format!("operator.resyncSeconds={seconds}")));
        let resync = Duration::from_secs(lane.resync.unwrap_or(60).into());
        Self { extra: lane.namespaces, resync, ..Self::new(release, namespace, settings).await }
    }

    /// Returns the release of the demo with an operator that watches every namespace.
    pub async fn cluster_wide() -> Self {
        let settings = vec!["operator.stopNoticeSeconds=10".to_owned()];
        Self::new(DEMO.0.to_owned(), DEMO.1.to_owned(), settings).await
    }

    async fn new(release: String, namespace: String, settings: Vec<String>) -> Self {
        let client = Client::try_default().await.expect("KUBECONFIG names a cluster that answers");
        Self { client, namespace, extra: &[], release, resync: Duration::from_mins(1), settings }
    }

    /// True for the release of the demo.
    pub fn is_demo(&self) -> bool {
        self.release == DEMO.0
    }

    /// Installs the release into a namespace that enforces the restricted standard, or upgrades it to the
    /// values of this fleet.
    pub async fn install(&self) {
        for namespace in self.extra.iter().copied().chain([self.namespace.as_str()]) {
            let _ = try_run("kubectl", &["create", "namespace", namespace]).await;
            run("kubectl", &["label", "--overwrite", "namespace", namespace, RESTRICTED]).await;
        }
        self.helm_install().await;
    }

    /// Installs the release, or upgrades it to the chart and the values of this fleet.
    pub async fn helm_install(&self) {
        self.helm_upgrade(&[]).await;
    }

    /// Installs or upgrades the release with further arguments of Helm.
    pub async fn helm_upgrade(&self, arguments: &[&str]) {
        let chart = root().join("charts/phase6").to_string_lossy().into_owned();
        let values = values();
        // `--force-conflicts` also undoes edits that cases made to the resources of the demo.
        let mut words = vec!["upgrade", "--install", &self.release, &chart];
        words.extend(["--namespace", &self.namespace, "--force-conflicts"]);
        words.extend(values.iter().map(String::as_str));
        words.extend(self.settings.iter().flat_map(|setting| ["--set", setting]));
        words.extend(arguments);
        run("helm", &words).await;
        let rollout = ["rollout", "status", "deployment/phase6-operator", "--timeout=120s"];
        self.kubectl(&rollout).await;
        for name in services() {
            self.wait_for(name, "Ready").await;
            self.wait_for(name, "PolicyApplied").await;
        }
    }

    /// Removes the release and, unless it is the cluster's own, its namespace.
    pub async fn remove(&self) {
        let _ = try_run("helm", &["uninstall", &self.release, "--namespace", &self.namespace]).await;
        if self.namespace != DEMO.1 {
            let _ = try_run("kubectl", &["delete", "namespace", &self.namespace]).await;
        }
    }

    /// Runs kubectl in the namespace of the release.
    pub async fn kubectl(&self, words: &[&str]) -> String {
        self.try_kubectl(words).await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn try_kubectl(&self, words: &[&str]) -> Result<String, String> {
        let namespace = format!("--namespace={}", self.namespace);
        let mut all = vec![namespace.as_str()];
        all.extend(words);
        try_run("kubectl", &all).await
    }

    /// Runs `kubectl apply` with one object.
    pub async fn apply(&self, object: &Value) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), object.to_string()).unwrap();
        self.kubectl(&["apply", "-f", &file.path().to_string_lossy()]).await;
    }

    /// Runs `kubectl wait --for=condition=...`, as users do.
    pub async fn wait_for(&self, name: &str, condition: &str) {
        let condition = format!("--for=condition={condition}");
        self.kubectl(&["wait", &condition, &format!("p6/{name}"), "--timeout=120s"]).await;
    }

    /// Runs `kubectl patch` on the spec of a resource.
    pub async fn patch(&self, name: &str, spec: Value) {
        let patch = json!({ "spec": spec }).to_string();
        self.kubectl(&["patch", "p6", name, "--type=merge", &format!("--patch={patch}")]).await;
    }

    /// Returns an object of the namespace, as in `apis/apps/v1`, `deployments`, `budget`.
    pub async fn object(&self, api: &str, kind: &str, name: &str) -> Option<Value> {
        get(&self.client, &format!("/{api}/namespaces/{}/{kind}/{name}", self.namespace)).await.ok()
    }

    /// Returns the objects of a kind that a label selector matches.
    pub async fn objects(&self, api: &str, kind: &str, selector: &str) -> Vec<Value> {
        let path = format!("/{api}/namespaces/{}/{kind}?labelSelector={selector}", self.namespace);
        let list = get(&self.client, &path).await.unwrap();
        list["items"].as_array().unwrap().clone()
    }

    pub async fn resource(&self, name: &str) -> Value {
        self.object("apis/phase6.dev/v1alpha1", "phase6services", name).await.unwrap()
    }

    pub async fn deployment(&self, name: &str) -> Value {
        self.object("apis/apps/v1", "deployments", name).await.unwrap()
    }

    /// Returns the pods of a resource that are not terminating.
    pub async fn pods(&self, name: &str) -> Vec<Value> {
        let selector = format!("phase6.dev/resource%3D{name}");
        let mut pods = self.objects("api/v1", "pods", &selector).await;
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pods
    }

    /// Sends a GET request to a pod through the API server, and returns the JSON of the response.
    pub async fn get_from_pod(&self, pod: &str, port: u16, path: &str) -> Result<Value, String> {
        get(&self.client, &format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy{path}", self.namespace))
            .await
    }

    /// Waits until the operator has observed the current generation of the resource, all replicas are ready,
    /// and all of them enforce its policy. Returns the resource.
    pub async fn settle(&self, name: &str) -> Value {
        wait_until(&format!("{name} settles"), SOON, || async {
            let resource = self.resource(name).await;
            let holds = |kind| is_true(&resource, kind);
            let is_observed = resource["status"]["observedGeneration"] == resource["metadata"]["generation"];
            (is_observed && holds("Ready") && holds("PolicyApplied") && !holds("Reconciling"))
                .then_some(resource)
        })
        .await
    }

    /// Waits until every resource of the demo has settled.
    pub async fn settle_all(&self) {
        for name in services() {
            self.settle(name).await;
        }
    }

    /// Returns the key that the chart generated.
    pub async fn key(&self) -> String {
        let template = "--template={{.data.key | base64decode}}";
        self.kubectl(&["get", "secret", "phase6-access", template]).await
    }

    /// Starts a load from a pod in the cluster: `count` requests, `rate` per second, to each URL in turn.
    pub async fn start_load(&self, name: &str, rate: u32, count: u64, urls: &[String]) {
        let key = self.key().await;
        let mut command = vec!["/usr/bin/load".to_owned(), rate.to_string(), count.to_string()];
        command.extend(["--header".into(), format!("authorization: Bearer {key}")]);
        command.extend(urls.iter().cloned());
        let image = image("PHASE6_E2E_LOAD");
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            // Network policies let `web` call every service.
            "metadata": {
                "name": name,
                "labels": { "app.kubernetes.io/part-of": "phase6", "app.kubernetes.io/name": "web" },
            },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [{
                    "name": "load", "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
                    "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                }],
            },
        });
        let _ = self.try_kubectl(&["delete", "pod", name, "--ignore-not-found"]).await;
        self.apply(&pod).await;
        self.kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Running",
            &format!("pod/{name}"),
            "--timeout=60s",
        ])
        .await;
    }

    /// Waits until a load has ended, and returns its results.
    pub async fn end_load(&self, name: &str, timeout: Duration) -> Load {
        wait_until(&format!("{name} ends"), timeout, || async {
            let pod = self.object("api/v1", "pods", name).await?;
            (pod["status"]["phase"] == "Succeeded").then_some(())
        })
        .await;
        let log = self.kubectl(&["logs", name]).await;
        self.kubectl(&["delete", "pod", name]).await;
        let results: Value =
            serde_json::from_str(log.trim()).unwrap_or_else(|error| panic!("{error}: {log}"));
        Load {
            sent: results["sent"].as_u64().unwrap(),
            results: serde_json::from_value(results["results"].clone()).unwrap(),
            p50: results["p50"].as_f64().unwrap(),
            p99: results["p99"].as_f64().unwrap(),
        }
    }

    /// Prints the state of the release, its events and the log of its operator, to explain a failure.
    pub async fn explain(&self) {
        for words in [
            &["get", "p6,pods", "-o", "wide"][..],
            &["get", "horizontalpodautoscalers"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "-l", "app.kubernetes.io/name=phase6-operator", "--tail=15", "--prefix"],
        ] {
            let output = self.try_kubectl(words).await.unwrap_or_else(|error| error);
            let last: Vec<&str> = output.lines().rev().take(20).collect();
            println!("{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Returns a condition of a resource.
pub fn condition<'a>(resource: &'a Value, kind: &str) -> Option<&'a Value> {
    resource["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// True if a condition is true of the current generation of a resource.
pub fn is_true(resource: &Value, kind: &str) -> bool {
    condition(resource, kind).is_some_and(|condition| {
        condition["status"] == "True" && condition["observedGeneration"] == resource["metadata"]["generation"]
    })
}
