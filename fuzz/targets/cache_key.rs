//! Keys of the cache, with two requests by two tenants: no tenant gets the response of another one, normalization
//! is idempotent, and requests of one tenant share a response exactly if their targets are equivalent.

#![no_main]

use std::{
    convert::Infallible,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header::VARY};
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use phase6_cache::{Accessors, Cache, CachePolicy, Client, HttpCacheLayer, Key, fuzzing, normalize_target};
use tower::{Layer, ServiceExt, service_fn};

const POLICY: CachePolicy = CachePolicy {
    ttl: Duration::from_secs(60),
    stale_while_revalidate: Duration::ZERO,
    stale_if_error: Duration::ZERO,
    max_entries: 100,
};

#[derive(Clone)]
struct Tenant(String);

const ACCESSORS: Accessors = Accessors {
    policy: |_| Some(&POLICY),
    client: |extensions| Client {
        tenant: extensions.get::<Tenant>().map_or("", |tenant| &tenant.0),
        has_credentials: false,
    },
    label: |_| Box::default(),
    set_label: |_, _| {},
};

const ACCEPT: &str = "accept";

/// A request as far as the cache distinguishes it from another one.
struct TestRequest<'a> {
    tenant: &'a str,
    uri: Uri,
    accept: Option<HeaderValue>,
}

/// Equivalence class of a target: two targets are equivalent if these are equal.
#[derive(PartialEq, Eq)]
struct Meaning {
    /// False if a percent sign begins no valid escape; the target then stands for itself alone.
    has_valid_escapes: bool,
    /// The target with all escapes of unreserved characters decoded.
    bytes: Vec<u8>,
}

impl<'a> TestRequest<'a> {
    /// Reads three lines: the tenant, the target, and the value of `Accept`.
    fn read(lines: &mut impl Iterator<Item = &'a str>) -> Option<Self> {
        let (tenant, uri) = (lines.next()?, lines.next()?.parse::<Uri>().ok()?);
        let accept = HeaderValue::from_str(lines.next()?).ok().filter(|value| !value.is_empty());
        uri.path_and_query().is_some().then_some(Self { tenant, uri, accept })
    }

    fn meaning(&self) -> Meaning {
        let text = self.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes();
        let mut bytes = Vec::new();
        let mut rest = text;
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            if first != b'%' {
                bytes.push(first);
                continue;
            }
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                return Meaning { has_valid_escapes: false, bytes: text.to_vec() };
            };
            // An escaped delimiter is not equivalent to the delimiter.
            if !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte) {
                bytes.push(b'%');
            }
            bytes.push(byte);
            rest = &after[2..];
        }
        Meaning { has_valid_escapes: true, bytes }
    }

    fn key(&self) -> Key {
        Key { tenant: self.tenant.into(), uri: normalize_target(&self.uri).as_ref().into() }
    }

    /// Sends the request through the layer. Returns the body, and true if the handler was called.
    async fn send(&self, cache: &Cache, body: &'static str) -> (Bytes, bool) {
        let calls = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&calls);
        let handler = service_fn(move |_: Request<Full<Bytes>>| {
            counter.fetch_add(1, Ordering::Relaxed);
            let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
            response.headers_mut().insert(VARY, HeaderValue::from_static(ACCEPT));
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let mut request = Request::new(Full::default());
        *request.uri_mut() = self.uri.clone();
        request.extensions_mut().insert(Tenant(self.tenant.to_owned()));
        if let Some(accept) = &self.accept {
            request.headers_mut().insert(ACCEPT, accept.clone());
        }
        let Ok(response) =
            HttpCacheLayer::new(cache.clone(), "fuzz", ACCESSORS).layer(handler).oneshot(request).await;
        let Ok(body) = http_body_util::BodyExt::collect(response.into_body()).await;
        (body.to_bytes(), calls.load(Ordering::Relaxed) > 0)
    }
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"));

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let (Some(first), Some(second)) = (TestRequest::read(&mut lines), TestRequest::read(&mut lines)) else {
        return;
    };
    for request in [&first, &second] {
        let normalized = normalize_target(&request.uri);
        if let Ok(again) = normalized.parse::<Uri>() {
            assert_eq!(normalize_target(&again), normalized, "normalization is idempotent");
        }
    }
    let are_equivalent = first.meaning() == second.meaning();
    assert_eq!(first.key().uri == second.key().uri, are_equivalent, "{} {}", first.uri, second.uri);
    let have_one_key = first.tenant == second.tenant && are_equivalent;
    assert_eq!(first.key() == second.key(), have_one_key);
    assert_eq!(fuzzing::response_name(&first.key()) == fuzzing::response_name(&second.key()), have_one_key);
    RUNTIME.block_on(async {
        let cache = Cache::with_manual_clock(None, Arc::new(AtomicU64::new(1)));
        assert_eq!(first.send(&cache, "first").await, (Bytes::from_static(b"first"), true));
        let (body, was_called) = second.send(&cache, "second").await;
        let is_hit = have_one_key && first.accept == second.accept;
        assert_eq!(was_called, !is_hit, "a hit needs the same key and the same request headers");
        assert_eq!(&*body, if is_hit { b"first".as_slice() } else { b"second" });
    });
});
