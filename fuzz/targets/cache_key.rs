//! Two requests by two tenants: an answer that was made for one is never the other's, normalising a target
//! twice changes nothing, and of one tenant exactly the targets that mean the same share an answer.

#![no_main]

use std::{
    convert::Infallible,
    sync::{Arc, LazyLock, atomic::AtomicU64},
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

struct Asking<'a> {
    tenant: &'a str,
    uri: Uri,
    accept: Option<HeaderValue>,
}

impl<'a> Asking<'a> {
    /// A tenant, a target, and what it accepts.
    fn read(lines: &mut impl Iterator<Item = &'a str>) -> Option<Self> {
        let (tenant, uri) = (lines.next()?, lines.next()?.parse::<Uri>().ok()?);
        let accept = HeaderValue::from_str(lines.next()?).ok().filter(|value| !value.is_empty());
        uri.path_and_query().is_some().then_some(Self { tenant, uri, accept })
    }

    /// Its target with every escape undone; as it stands where some percent sign is none.
    fn meaning(&self) -> (bool, Vec<u8>) {
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
                return (false, text.to_vec());
            };
            // An escaped delimiter is not the delimiter.
            if !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte) {
                bytes.push(b'%');
            }
            bytes.push(byte);
            rest = &after[2..];
        }
        (true, bytes)
    }

    fn key(&self) -> Key {
        Key { tenant: self.tenant.into(), uri: normalize_target(&self.uri).as_ref().into() }
    }

    /// Asks, and tells whether the handler was asked.
    async fn ask(&self, cache: &Cache, body: &'static str) -> (Bytes, bool) {
        let asked = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&asked);
        let handler = service_fn(move |_: Request<Full<Bytes>>| {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
            answer.headers_mut().insert(VARY, HeaderValue::from_static(ACCEPT));
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        let mut request = Request::new(Full::default());
        *request.uri_mut() = self.uri.clone();
        request.extensions_mut().insert(Tenant(self.tenant.to_owned()));
        if let Some(accept) = &self.accept {
            request.headers_mut().insert(ACCEPT, accept.clone());
        }
        let Ok(answer) =
            HttpCacheLayer::new(cache.clone(), "fuzz", ACCESSORS).layer(handler).oneshot(request).await;
        let Ok(body) = http_body_util::BodyExt::collect(answer.into_body()).await;
        (body.to_bytes(), asked.load(std::sync::atomic::Ordering::Relaxed) > 0)
    }
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime"));

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let (Some(one), Some(other)) = (Asking::read(&mut lines), Asking::read(&mut lines)) else { return };
    for asking in [&one, &other] {
        let normal = normalize_target(&asking.uri);
        if let Ok(again) = normal.parse::<Uri>() {
            assert_eq!(normalize_target(&again), normal, "twice is once");
        }
    }
    let means_the_same = one.meaning() == other.meaning();
    assert_eq!(one.key().uri == other.key().uri, means_the_same, "{} {}", one.uri, other.uri);
    let is_one_key = one.tenant == other.tenant && means_the_same;
    assert_eq!(one.key() == other.key(), is_one_key);
    assert_eq!(fuzzing::response_name(&one.key()) == fuzzing::response_name(&other.key()), is_one_key);
    RUNTIME.block_on(async {
        let cache = Cache::with_manual_clock(None, Arc::new(AtomicU64::new(1)));
        assert_eq!(one.ask(&cache, "one's").await, (Bytes::from_static(b"one's"), true));
        let (body, was_asked) = other.ask(&cache, "other's").await;
        let shares = is_one_key && one.accept == other.accept;
        assert_eq!(was_asked, !shares, "a hit is whose key and request headers are the same");
        assert_eq!(&*body, if shares { b"one's".as_slice() } else { b"other's" });
    });
});
