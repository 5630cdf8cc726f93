//! A budget service on a free port, whose providers are imitated.

use std::{collections::HashMap, time::Duration};

use phase6_budget::SERVICE;
use phase6_chassis::{Access, ApiKeys, ConnectionLimits, Enforcer, Host, INTERNAL, Running, Settings, start};
use phase6_policy::PolicyDocument;
use phase6_store::{DatabaseUrl, PoolLimits, Store};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::fake_providers::FakeProviders;

/// A running service with its dependencies.
pub struct Harness {
    pub providers: FakeProviders,
    pub http: reqwest::Client,
    base: String,
    enforcer: Enforcer,
    access: Access,
    running: Option<Running>,
    folder: tempfile::TempDir,
}

impl Harness {
    /// Starts a service with the given providers on the imitating server, and further settings.
    pub async fn start(providers: &[&str], settings: &[(&str, &str)]) -> Self {
        Self::start_with_keys(providers, settings, ApiKeys::default()).await
    }

    /// Starts a service that requires one of the given API keys.
    pub async fn start_with_keys(providers: &[&str], settings: &[(&str, &str)], keys: ApiKeys) -> Self {
        let server = FakeProviders::default();
        let address = server.clone().serve().await;
        let mut all: HashMap<String, String> = HashMap::new();
        for local in ["OLLAMA", "LOCALAI"] {
            all.insert(format!("{local}_ENABLED"), "false".into());
        }
        for provider in providers {
            let prefix = provider.to_uppercase();
            all.insert(format!("{prefix}_ENABLED"), "true".into());
            all.insert(format!("{prefix}_API_KEY"), format!("{provider}-secret-key"));
            all.insert(format!("{prefix}_BASE_URL"), format!("{address}/{provider}"));
        }
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let folder = tempfile::tempdir().unwrap();
        let access = Access { keys, ..Access::open() };
        let host = Host {
            access: access.clone(),
            database: DatabaseUrl::file(folder.path().join("phase6.db")),
            redis: None,
            shared_as: None,
            spans: None,
            cache_folder: None,
            peers: HashMap::new(),
            patience: Duration::ZERO,
            connections: ConnectionLimits::default(),
            settings: Settings::from_iter(all),
            version: "test",
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let enforcer = Enforcer::default();
        let running = start(&SERVICE, listener, &host, enforcer.clone()).await.unwrap();
        let base = format!("http://{}", running.address());
        let http = reqwest::Client::new();
        Self { providers: server, http, base, enforcer, access, running: Some(running), folder }
    }

    /// Returns the address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Returns a GET request, not yet sent.
    pub fn get_request(&self, path: &str) -> RequestBuilder {
        self.http.get(self.url(path))
    }

    /// Returns a POST request, not yet sent.
    pub fn post_request(&self, path: &str) -> RequestBuilder {
        self.http.post(self.url(path))
    }

    /// Sends a GET request and returns status and body.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        read(self.get_request(path).send().await.unwrap()).await
    }

    /// Sends a POST request and returns status and body.
    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        read(self.post_request(path).json(&body).send().await.unwrap()).await
    }

    /// Requests the answer to a prompt.
    pub async fn burst(&self, prompt: &str) -> (u16, Value) {
        self.post("/api/v1/providers/burst", json!({"prompt": prompt})).await
    }

    /// Requests an answer as one of our own services, with a deadline in milliseconds.
    pub async fn burst_within(&self, milliseconds: u64, body: Value) -> (u16, Value) {
        let request = self.post_request("/api/v1/providers/burst").json(&body);
        let request = request.header(INTERNAL, self.access.internal.header());
        read(request.header("phase6-deadline-ms", milliseconds).send().await.unwrap()).await
    }

    /// Puts a policy of the service in force.
    pub fn apply_policy(&self, revision: u64, policy: Value) {
        let document: PolicyDocument = serde_json::from_value(json!({
            "ownerUid": "t", "revision": revision, "generation": 1, "hash": "", "publishedAt": "", "policy": policy,
        }))
        .unwrap();
        self.enforcer.apply(document);
    }

    /// Connects to the database of the service, as another replica does.
    pub async fn database(&self) -> Store {
        let url = DatabaseUrl::file(self.folder.path().join("phase6.db"));
        Store::connect(&url, PoolLimits::default()).await.unwrap()
    }

    /// Returns the number of open connections, including the one of this request.
    pub async fn open_connections(&self) -> u64 {
        self.get("/api/v1/system/observability").await.1["connections"]["open"].as_u64().unwrap()
    }

    /// Waits until no amount is reserved, and returns the amount spent in dollars.
    pub async fn used_after_settlement(&self) -> f64 {
        wait_until("no amount is reserved", || async {
            self.get("/api/v1/budget").await.1["budget"]["reserved"] == 0.0
        })
        .await;
        self.used().await
    }

    /// Returns the amount spent, in dollars.
    pub async fn used(&self) -> f64 {
        self.get("/api/v1/budget").await.1["budget"]["used"].as_f64().unwrap()
    }

    /// Stops the service and checks that every request has ended.
    pub async fn stop(mut self) {
        let running = self.running.take().unwrap();
        assert!(running.stop(Duration::from_secs(5)).await, "requests are still in flight");
    }
}

async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Waits for a condition, for ten seconds at most.
pub async fn wait_until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..2_000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("timed out waiting until {what}");
}
