//! A cache over an origin that counts its calls and waits at a gate, with a manual clock.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use phase6_cache::{Accessors, Cache, CachePolicy, Client, HttpCacheLayer, Level};
use tower::{Layer, Service, ServiceExt, service_fn};

pub type Body = Full<Bytes>;

/// Request extension: the tenant of a request with credentials.
#[derive(Clone)]
pub struct Tenant(pub &'static str);

pub const ACCESSORS: Accessors = Accessors {
    policy: |extensions| extensions.get::<CachePolicy>(),
    client: |extensions| match extensions.get::<Tenant>() {
        Some(Tenant(tenant)) => Client { tenant, has_credentials: true },
        None => Client { tenant: "", has_credentials: false },
    },
    label: |_| "7".into(),
    set_label: |extensions, label| {
        if let Some(restored) = extensions.get::<Arc<AtomicUsize>>() {
            restored.store(label.parse().unwrap(), Ordering::Relaxed);
        }
    },
};

/// Service behind the cache. While a test holds the write lock of `gate`, its responses wait.
#[derive(Clone, Default)]
pub struct Origin {
    pub calls: Arc<AtomicUsize>,
    pub response: Arc<Mutex<OriginResponse>>,
    pub gate: Arc<tokio::sync::RwLock<()>>,
}

/// Response of the origin.
#[derive(Clone)]
pub struct OriginResponse {
    pub status: u16,
    pub headers: Vec<(&'static str, &'static str)>,
    /// Body; if `None`, the number of the call, the tenant and the target.
    pub body: Option<&'static str>,
}

impl Default for OriginResponse {
    fn default() -> Self {
        Self { status: 200, headers: vec![], body: None }
    }
}

pub struct Harness {
    pub cache: Cache,
    pub origin: Origin,
    pub now_ms: Arc<AtomicU64>,
    pub policy: Mutex<CachePolicy>,
}

/// Response as a client receives it.
pub struct Received {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl Default for Harness {
    fn default() -> Self {
        Self::new(None, 1_000_000)
    }
}

impl Harness {
    /// Creates a harness whose policy has a TTL of ten seconds.
    pub fn new(second_level: Option<Arc<dyn Level>>, now_ms: u64) -> Self {
        let now_ms = Arc::new(AtomicU64::new(now_ms));
        Self {
            cache: Cache::with_manual_clock(second_level, Arc::clone(&now_ms)),
            origin: Origin::default(),
            now_ms,
            policy: Mutex::new(CachePolicy {
                ttl: Duration::from_secs(10),
                stale_while_revalidate: Duration::ZERO,
                stale_if_error: Duration::ZERO,
                max_entries: 1000,
            }),
        }
    }

    pub fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + use<> {
        let origin = self.origin.clone();
        let inner = service_fn(move |request: Request<Body>| {
            let origin = origin.clone();
            async move {
                let call = origin.calls.fetch_add(1, Ordering::SeqCst) + 1;
                let _open = origin.gate.read().await;
                let configured = origin.response.lock().unwrap().clone();
                let tenant = request.extensions().get::<Tenant>().map_or("", |tenant| tenant.0);
                let body = match configured.body {
                    Some(body) => body.to_owned(),
                    None => format!("{call} {tenant}{}", request.uri()),
                };
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = StatusCode::from_u16(configured.status).unwrap();
                for (name, value) in configured.headers {
                    response.headers_mut().append(name, value.parse().unwrap());
                }
                Ok::<_, Infallible>(response)
            }
        });
        HttpCacheLayer::new(self.cache.clone(), "test", ACCESSORS).layer(inner)
    }

    pub fn request(&self, method: Method, uri: &str) -> Request<Body> {
        let mut request = Request::new(Body::default());
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        request.extensions_mut().insert(*self.policy.lock().unwrap());
        request
    }

    pub async fn send(&self, request: Request<Body>) -> Received {
        let (parts, body) = self.service().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Received {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub async fn get(&self, uri: &str) -> Received {
        self.send(self.request(Method::GET, uri)).await
    }

    pub async fn get_as(&self, tenant: &'static str, uri: &str) -> Received {
        let mut request = self.request(Method::GET, uri);
        request.extensions_mut().insert(Tenant(tenant));
        self.send(request).await
    }

    pub async fn get_with(&self, uri: &str, name: &'static str, value: &str) -> Received {
        let mut request = self.request(Method::GET, uri);
        request.headers_mut().insert(name, value.parse().unwrap());
        self.send(request).await
    }

    pub fn advance(&self, secs: u64) {
        self.now_ms.fetch_add(secs * 1000, Ordering::SeqCst);
    }

    /// Sets the origin's response to all following calls.
    pub fn set_response(&self, status: u16, headers: &[(&'static str, &'static str)]) {
        let response = OriginResponse { status, headers: headers.to_vec(), body: None };
        *self.origin.response.lock().unwrap() = response;
    }

    pub fn set_policy(&self, change: impl FnOnce(&mut CachePolicy)) {
        change(&mut self.policy.lock().unwrap());
    }

    /// Number of calls of the origin.
    pub fn calls(&self) -> usize {
        self.origin.calls.load(Ordering::SeqCst)
    }
}

/// Waits until a condition holds, for ten seconds at most.
pub async fn wait_until(description: &str, mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("timed out waiting until {description}"));
}
