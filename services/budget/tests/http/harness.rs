//! A budget service on a free port, whose providers are imitated.

use std::collections::HashMap;

use http::Method;
use phase6_budget::SERVICE;
use phase6_chassis::Principal;
pub use phase6_chassis::testing::wait_until;
use phase6_chassis::testing::{TestRequest, TestResponse, TestService, TestServiceBuilder};
use phase6_policy::PolicyDocument;
use phase6_store::Store;
use serde_json::{Value, json};

use crate::fake_providers::FakeProviders;

/// A running service with its dependencies.
pub struct Harness {
    pub providers: FakeProviders,
    pub service: TestService,
}

impl Harness {
    /// Starts a service with the given providers on the imitating server, and further settings.
    pub async fn start(providers: &[&str], settings: &[(&str, &str)]) -> Self {
        Self::start_with(providers, settings, |builder| builder).await
    }

    /// Starts a service that `configure` has configured further.
    pub async fn start_with(
        providers: &[&str],
        settings: &[(&str, &str)],
        configure: impl FnOnce(TestServiceBuilder) -> TestServiceBuilder,
    ) -> Self {
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
        let service = configure(TestService::builder(&SERVICE).settings(all)).start().await;
        Self { providers: server, service }
    }

    /// Returns a POST request, not yet sent.
    pub fn post_request(&self, path: &str) -> TestRequest {
        self.service.request(Method::POST, path)
    }

    /// Requests the answer to a prompt.
    pub async fn burst(&self, prompt: &str) -> (u16, Value) {
        let body = json!({"prompt": prompt});
        status_and_json(&self.service.post("/api/v1/providers/burst", &body).await)
    }

    /// Requests an answer as one of our own services, with a deadline in milliseconds.
    pub async fn burst_within(&self, milliseconds: u64, body: Value) -> (u16, Value) {
        let request = self.post_request("/api/v1/providers/burst").json(&body);
        status_and_json(
            &request
                .on_behalf_of(&Principal::anonymous())
                .header("phase6-deadline-ms", milliseconds)
                .send()
                .await,
        )
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
        let observed: Value = self.service.get_json("/api/v1/system/observability").await;
        observed["connections"]["open"].as_u64().unwrap()
    }

    /// Waits until no amount is reserved, and returns the amount spent in dollars.
    pub async fn used_after_settlement(&self) -> f64 {
        wait_until("no amount is reserved", || async { self.budget().await["reserved"] == 0.0 }).await;
        self.used().await
    }

    /// Returns the spending of the current day.
    pub async fn budget(&self) -> Value {
        self.service.get_json::<Value>("/api/v1/budget").await["budget"].take()
    }

    /// Returns the amount spent, in dollars.
    pub async fn used(&self) -> f64 {
        self.budget().await["used"].as_f64().unwrap()
    }

    /// Stops the service and checks that every request has ended.
    pub async fn stop(self) {
        self.service.shutdown().await;
    }
}

/// Returns the status and the JSON of a response.
pub fn status_and_json(response: &TestResponse) -> (u16, Value) {
    (response.status.as_u16(), response.json())
}
