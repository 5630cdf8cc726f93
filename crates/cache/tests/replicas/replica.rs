//! A replica: a cache over Redis, in front of an origin that all replicas share.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Extensions, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use phase6_cache::{Accessors, Cache, CachePolicy, Client, HttpCacheLayer, Level, Remote};
use phase6_redis::Redis;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tower::{Layer, ServiceExt, service_fn};

pub const POLICY: CachePolicy = CachePolicy {
    ttl: Duration::from_mins(1),
    stale_while_revalidate: Duration::ZERO,
    stale_if_error: Duration::ZERO,
    max_entries: 1_000,
};

/// Request extension: the tenant of a request with credentials.
#[derive(Clone)]
struct Tenant(&'static str);

const ACCESSORS: Accessors = Accessors {
    policy: |_| Some(&POLICY),
    client: |extensions: &Extensions| {
        let tenant = extensions.get::<Tenant>().map_or("", |tenant| tenant.0);
        Client { tenant, has_credentials: !tenant.is_empty() }
    },
    label: |_| "GET /a".into(),
    set_label: |extensions, label| {
        if let Some(RestoredLabel(restored)) = extensions.get::<RestoredLabel>() {
            label.clone_into(&mut restored.lock().unwrap());
        }
    },
};

/// Request extension: the label that a hit restored.
#[derive(Clone, Default)]
pub struct RestoredLabel(pub Arc<Mutex<String>>);

/// Returns the host and port of the test server.
fn server_address() -> String {
    let url = std::env::var("PHASE6_TEST_REDIS").unwrap();
    url.trim_start_matches("redis://").trim_end_matches('/').to_owned()
}

pub fn connect(prefix: &str) -> Redis {
    let url = std::env::var("PHASE6_TEST_REDIS")
        .expect("PHASE6_TEST_REDIS names a server; cargo xtask test starts one");
    Redis::new(&url.parse().unwrap(), prefix).unwrap()
}

/// Connects to the test server through a proxy that passes nothing until the sender opens it.
pub async fn connect_through_gate(prefix: &str) -> (Redis, oneshot::Sender<()>) {
    let server = server_address();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (open, opened) = oneshot::channel::<()>();
    tokio::spawn(async move {
        if opened.await.is_err() {
            return;
        }
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (Redis::new(&url.parse().unwrap(), prefix).unwrap(), open)
}

/// Returns a key prefix that no other test uses.
pub fn unique_prefix(name: &str) -> String {
    format!("phase6:test:{name}:{:x}", rand::random::<u64>())
}

/// Origin whose responses contain the number of the call.
#[derive(Clone, Default)]
pub struct Origin {
    calls: Arc<AtomicU64>,
    delay: Duration,
}

impl Origin {
    pub fn with_delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}

/// One replica.
pub struct Replica {
    pub cache: Cache,
    pub level: Arc<Remote>,
    pub restored_label: RestoredLabel,
    origin: Origin,
}

/// Response as a client receives it.
#[derive(Debug)]
pub struct Received {
    pub body: String,
    pub cache_status: String,
}

impl Replica {
    /// Starts a replica and waits until it reads the invalidation log.
    pub async fn start(prefix: &str, origin: &Origin) -> Self {
        let replica = Self::new(connect(prefix), origin);
        wait_until("the replica is in sync", || async { replica.level.is_in_sync() }).await;
        replica
    }

    pub async fn start_many(count: usize, prefix: &str, origin: &Origin) -> Vec<Arc<Self>> {
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(Arc::new(Self::start(prefix, origin).await));
        }
        replicas
    }

    /// Starts a replica that may not have reached Redis yet.
    pub fn new(redis: Redis, origin: &Origin) -> Self {
        let level = Arc::new(Remote::new(redis));
        let cache = Cache::new(Some(Arc::clone(&level) as Arc<dyn Level>));
        Self { cache, level, restored_label: RestoredLabel::default(), origin: origin.clone() }
    }

    /// Gets a response and returns its body.
    pub async fn get(&self, uri: &str) -> String {
        self.send(Method::GET, uri, "").await.body
    }

    pub async fn get_in(&self, language: &str, uri: &str) -> String {
        let request = Request::get(uri).header("accept-language", language).body(Full::default()).unwrap();
        self.call(request, "").await.body
    }

    pub async fn send(&self, method: Method, uri: &str, tenant: &'static str) -> Received {
        let request = Request::builder().method(method).uri(uri).body(Full::default()).unwrap();
        self.call(request, tenant).await
    }

    async fn call(&self, mut request: Request<Full<Bytes>>, tenant: &'static str) -> Received {
        let origin = self.origin.clone();
        let handler = service_fn(move |request: Request<Full<Bytes>>| {
            let number = origin.calls.fetch_add(1, Ordering::SeqCst) + 1;
            let mut body = number.to_string();
            if request.uri().path() == "/large" {
                body.push_str(&" ".repeat(100_000));
            }
            let mut response = Response::new(Full::new(Bytes::from(body)));
            if request.uri().path() == "/vary" {
                response.headers_mut().insert("vary", "accept-language".parse().unwrap());
            }
            response.headers_mut().insert("surrogate-key", "numbers".parse().unwrap());
            if request.extensions().get::<Tenant>().is_some() {
                response.headers_mut().insert("cache-control", "private".parse().unwrap());
            }
            let delay = origin.delay;
            async move {
                tokio::time::sleep(delay).await;
                Ok::<_, Infallible>(response)
            }
        });
        request.extensions_mut().insert(self.restored_label.clone());
        if !tenant.is_empty() {
            request.extensions_mut().insert(Tenant(tenant));
        }
        let layer = HttpCacheLayer::new(self.cache.clone(), "test", ACCESSORS);
        let Ok(response) = layer.layer(handler).oneshot(request).await;
        let cache_status = response.headers().get("cache-status");
        let cache_status = cache_status.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Received { body: String::from_utf8(body.to_vec()).unwrap(), cache_status }
    }

    /// Waits until this replica has stored a number of responses in Redis.
    pub async fn wait_for_writes(&self, count: u64) {
        wait_until("the responses are stored", || async { self.level.stats().writes >= count }).await;
    }
}

/// Waits until a condition holds, for ten seconds at most.
pub async fn wait_until<F: Future<Output = bool>>(description: &str, condition: impl Fn() -> F) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(10), "timed out waiting until {description}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
