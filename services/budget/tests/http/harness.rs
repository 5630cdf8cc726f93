//! A budget service on a free port, whose providers are imitated.

use std::collections::HashMap;

use phase6_budget::SERVICE;
pub use phase6_chassis::testing::wait_until;
use phase6_chassis::{ApiKeys, INTERNAL, testing::TestService};
use phase6_policy::PolicyDocument;
use phase6_store::Store;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::fake_providers::FakeProviders;

/// A running service with its dependencies.
pub struct Harness {
    pub providers: FakeProviders,
    pub http: reqwest::Client,
    service: TestService,
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
        let service = TestService::builder(&SERVICE).settings(all).api_keys(keys).start().await;
        Self { providers: server, http: reqwest::Client::new(), service }
    }

    /// Returns the address of a path.
    pub fn url(&self, path: &str) -> String {
        self.service.url(path)
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
        let request = request.header(INTERNAL, self.service.host().access.internal.header());
        read(request.header("phase6-deadline-ms", milliseconds).send().await.unwrap()).await
    }

    /// Puts a policy of the service in force.
    pub fn apply_policy(&self, revision: u64, policy: Value) {
        let document: PolicyDocument = serde_json::from_value(json!({
            "ownerUid": "t", "revision": revision, "generation": 1, "hash": "", "publishedAt": "", "policy": policy,
        }))
        .unwrap();
        self.service.enforcer().apply(document);
    }

    /// Connects to the database of the service, as another replica does.
    pub async fn database(&self) -> Store {
        self.service.store().await
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
    pub async fn stop(self) {
        self.service.shutdown().await;
    }
}

async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}
