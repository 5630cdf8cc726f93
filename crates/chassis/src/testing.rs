//! Starts services in tests: in this process, on a free port, each with a separate database.
//!
//! ```no_run
//! # use phase6_chassis::{Definition, testing::TestService};
//! # async fn example(service: &Definition) {
//! let service = TestService::start(service).await;
//! let status: serde_json::Value = service.get_json("/api/v1/status").await;
//! let request = service.request(http::Method::POST, "/api/v1/cache/invalidate");
//! let response = request.header("x-api-key", "secret").json(&serde_json::json!({"all": true})).send().await;
//! assert_eq!(response.status, 200);
//! # }
//! ```
//!
//! Everything here panics instead of returning errors: a test that cannot go on has failed.

mod client;

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use http::Method;
use phase6_identity::{Digest, KeyFile, Keys, KeysConfig};
use phase6_live::Live;
pub use phase6_store::testing::Kind as DatabaseKind;
use phase6_store::{PoolLimits, Store, testing::TestDatabase};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub use self::client::{TestRequest, TestResponse, TestStream};
use crate::{
    Access, ApplyOutcome, Clock, ConnectionLimits, Definition, Enforcer, Host, Principal, Role, Running,
    start,
};

/// Longest time of a shutdown.
const GRACE: Duration = Duration::from_secs(5);
/// Longest wait for a condition.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two checks of a condition.
const CONDITION_POLL: Duration = Duration::from_millis(5);

/// A service that runs in this process.
pub struct TestService {
    running: Running,
    host: Host,
    /// Removes the database on drop.
    _database: TestDatabase,
    /// Folder of the key file; removed on drop.
    _folder: tempfile::TempDir,
}

/// Configuration of a [`TestService`].
pub struct TestServiceBuilder {
    definition: Definition,
    database: DatabaseKind,
    redis: Option<String>,
    settings: HashMap<String, String>,
    key_file: KeyFile,
    peers: HashMap<String, Vec<String>>,
    connections: ConnectionLimits,
    clock: Clock,
    policy: Option<Value>,
}

impl TestServiceBuilder {
    /// Kind of the database; SQLite by default. PostgreSQL needs `PHASE6_TEST_POSTGRES`.
    #[must_use]
    pub fn database(mut self, kind: DatabaseKind) -> Self {
        self.database = kind;
        self
    }

    /// Shares limits and cached responses through the Redis at `url`.
    #[must_use]
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.redis = Some(url.into());
        self
    }

    /// Sets environment variables. Later values replace earlier ones.
    #[must_use]
    pub fn settings<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.settings.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Adds a key to the key file of the service, which therefore requires keys.
    #[must_use]
    pub fn api_key(mut self, tenant: &str, name: &str, role: Role, key: &str) -> Self {
        let parse = |text: &str| text.parse().expect("a name");
        let principal = Principal { tenant: parse(tenant), subject: parse(name), role };
        self.key_file.add(principal, Digest::of(key.as_bytes()));
        self
    }

    /// Sets the addresses (`host:port`) of a peer.
    #[must_use]
    pub fn peer(mut self, name: impl Into<String>, addresses: Vec<String>) -> Self {
        self.peers.insert(name.into(), addresses);
        self
    }

    /// Limits of connections.
    #[must_use]
    pub fn connections(mut self, limits: ConnectionLimits) -> Self {
        self.connections = limits;
        self
    }

    /// Wall clock of the service.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Applies a policy before the start.
    #[must_use]
    pub fn policy(mut self, policy: Value) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Starts the service.
    pub async fn start(self) -> TestService {
        let database = TestDatabase::create(self.database).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let host = Host {
            access: Access {
                keys: open_keys(&self.key_file, folder.path(), &database).await,
                ..Access::open()
            },
            database: database.url.clone(),
            store_wait: Duration::ZERO,
            redis: self.redis.map(|url| url.parse().expect("a Redis URL")),
            collector: None,
            shared_as: None,
            cache_folder: None,
            peers: self.peers.into_iter().map(|(name, addresses)| (name, Live::new(addresses))).collect(),
            connections: self.connections,
            environment: self.settings.into_iter().collect(),
            clock: self.clock,
            version: "test",
        };
        let enforcer = host.enforcer();
        if let Some(policy) = self.policy {
            apply_policy(&enforcer, policy);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let running = start(&self.definition, listener, &host, enforcer).await.expect("the service starts");
        TestService { running, host, _database: database, _folder: folder }
    }
}

impl TestService {
    /// Starts a service with defaults.
    pub async fn start(definition: &Definition) -> Self {
        Self::builder(definition).start().await
    }

    /// Configures a service before its start.
    pub fn builder(definition: &Definition) -> TestServiceBuilder {
        TestServiceBuilder {
            definition: *definition,
            database: DatabaseKind::Sqlite,
            redis: None,
            settings: HashMap::new(),
            key_file: KeyFile::default(),
            peers: HashMap::new(),
            connections: ConnectionLimits::default(),
            clock: Clock::default(),
            policy: None,
        }
    }

    /// Address on which the service listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address()
    }

    /// URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// Holder of the active policy.
    pub fn enforcer(&self) -> &Enforcer {
        self.running.enforcer()
    }

    /// Host of the service, with its internal token.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Opens the database of the service once more, as another replica does.
    pub async fn store(&self) -> Store {
        Store::connect(&self.host.database, PoolLimits::default()).await.expect("the service's database")
    }

    /// Applies a policy, as the next revision.
    pub fn apply_policy(&self, policy: Value) {
        apply_policy(self.enforcer(), policy);
    }

    /// Creates a request, to which headers and a body can be added before it is sent.
    pub fn request(&self, method: Method, path: &str) -> TestRequest {
        TestRequest::new(self.address(), self.host.access.internal.clone(), method, path)
    }

    /// Sends a GET request.
    pub async fn get(&self, path: &str) -> TestResponse {
        self.request(Method::GET, path).send().await
    }

    /// Sends a GET request, and returns the JSON of its successful response.
    pub async fn get_json<T: DeserializeOwned>(&self, path: &str) -> T {
        self.get(path).await.success_json()
    }

    /// Sends a POST request with a JSON body.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> TestResponse {
        self.request(Method::POST, path).json(body).send().await
    }

    /// Sends a POST request with a JSON body, and returns the JSON of its successful response.
    pub async fn post_json<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        self.post(path, body).await.success_json()
    }

    /// Shuts down, and expects that all requests are finished.
    pub async fn shutdown(self) {
        assert!(self.running.shutdown(GRACE).await, "requests were still in flight");
    }
}

/// Opens the keys of the key file and of the database.
async fn open_keys(file: &KeyFile, folder: &std::path::Path, database: &TestDatabase) -> Keys {
    let path = folder.join("keys");
    std::fs::write(&path, file.text()).expect("a writable folder");
    let database = Some(database.url.clone());
    let config = KeysConfig { file: Some(path), database, always_required: false };
    Keys::open(config, Duration::ZERO).await.expect("the keys can be read")
}

fn apply_policy(enforcer: &Enforcer, policy: Value) {
    let document = json!({
        "ownerUid": "test", "revision": enforcer.state().revision + 1, "generation": 1, "hash": "",
        "publishedAt": "", "policy": policy,
    });
    let document = serde_json::from_value(document).expect("a policy");
    assert_eq!(enforcer.apply(document), ApplyOutcome::Applied);
}

/// Waits until `condition` holds; `description` names it in the failure.
pub async fn wait_until<F: Future<Output = bool>>(description: &str, mut condition: impl FnMut() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(CONDITION_POLL).await;
        }
    };
    let is_met = tokio::time::timeout(CONDITION_TIMEOUT, wait).await.is_ok();
    assert!(is_met, "the condition was not met within {} s: {description}", CONDITION_TIMEOUT.as_secs());
}
