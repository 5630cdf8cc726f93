//! A cache over an origin that counts and waits as it is told, with a clock of its own.

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
use phase6_cache::{Ask, Cache, CacheLayer, Client, Terms};
use tower::{Layer, Service, ServiceExt, service_fn};

pub type Body = Full<Bytes>;

#[derive(Clone)]
pub struct Caller(pub &'static str);

pub const ASK: Ask = Ask {
    terms: |extensions| extensions.get::<Terms>(),
    client: |extensions| match extensions.get::<Caller>() {
        Some(Caller(tenant)) => Client { tenant, authorised: true },
        None => Client { tenant: "", authorised: false },
    },
    label: |_| "7".into(),
    set_label: |extensions, label| {
        if let Some(seen) = extensions.get::<Arc<AtomicUsize>>() {
            seen.store(label.parse().unwrap(), Ordering::Relaxed);
        }
    },
};

/// What the service behind the cache answers, and how often it was asked.
#[derive(Clone, Default)]
pub struct Origin {
    pub asked: Arc<AtomicUsize>,
    pub answer: Arc<Mutex<Reply>>,
    pub gate: Arc<tokio::sync::RwLock<()>>,
}

#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, &'static str)>,
    pub body: Option<&'static str>,
}

impl Default for Reply {
    fn default() -> Self {
        Self { status: 200, headers: vec![], body: None }
    }
}

pub struct Rig {
    pub cache: Cache,
    pub origin: Origin,
    pub now_ms: Arc<AtomicU64>,
    pub terms: Mutex<Terms>,
}

pub struct Got {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub fn rig_over(behind: Option<Arc<dyn phase6_cache::Level>>, now_ms: u64) -> Rig {
    let now_ms = Arc::new(AtomicU64::new(now_ms));
    Rig {
        cache: Cache::with_manual_clock(behind, Arc::clone(&now_ms)),
        origin: Origin::default(),
        now_ms,
        terms: Mutex::new(Terms {
            ttl: Duration::from_secs(10),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            max_entries: 1000,
        }),
    }
}

pub fn rig() -> Rig {
    rig_over(None, 1_000_000)
}

impl Rig {
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
                let count = origin.asked.fetch_add(1, Ordering::SeqCst) + 1;
                let _open = origin.gate.read().await;
                let reply = origin.answer.lock().unwrap().clone();
                let tenant = request.extensions().get::<Caller>().map_or("", |caller| caller.0);
                let body = match reply.body {
                    Some(body) => body.to_owned(),
                    None => format!("{count} {tenant}{}", request.uri()),
                };
                let mut answer = Response::new(Body::from(body));
                *answer.status_mut() = StatusCode::from_u16(reply.status).unwrap();
                for (name, value) in reply.headers {
                    answer.headers_mut().append(name, value.parse().unwrap());
                }
                Ok::<_, Infallible>(answer)
            }
        });
        CacheLayer::new(self.cache.clone(), "test", ASK).layer(inner)
    }

    pub fn request(&self, method: Method, uri: &str) -> Request<Body> {
        let mut request = Request::new(Body::default());
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        request.extensions_mut().insert(*self.terms.lock().unwrap());
        request
    }

    pub async fn send(&self, request: Request<Body>) -> Got {
        let (parts, body) = self.service().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Got {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub async fn get(&self, uri: &str) -> Got {
        self.send(self.request(Method::GET, uri)).await
    }

    pub async fn get_as(&self, caller: &'static str, uri: &str) -> Got {
        let mut request = self.request(Method::GET, uri);
        request.extensions_mut().insert(Caller(caller));
        self.send(request).await
    }

    pub async fn get_with(&self, uri: &str, name: &'static str, value: &str) -> Got {
        let mut request = self.request(Method::GET, uri);
        request.headers_mut().insert(name, value.parse().unwrap());
        self.send(request).await
    }

    pub fn pass(&self, secs: u64) {
        self.now_ms.fetch_add(secs * 1000, Ordering::SeqCst);
    }

    pub fn reply(&self, status: u16, headers: &[(&'static str, &'static str)]) {
        let reply = Reply { status, headers: headers.to_vec(), body: None };
        *self.origin.answer.lock().unwrap() = reply;
    }

    pub fn set_terms(&self, change: impl FnOnce(&mut Terms)) {
        change(&mut self.terms.lock().unwrap());
    }

    pub fn asked(&self) -> usize {
        self.origin.asked.load(Ordering::SeqCst)
    }
}

pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never: {what}"));
}
