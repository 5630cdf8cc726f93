use std::time::Duration;

use http_body_util::Full;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{Client, invalidation::MATCH_CALLS};

const POLICY: CachePolicy = CachePolicy {
    ttl: Duration::from_mins(1),
    stale_while_revalidate: Duration::ZERO,
    stale_if_error: Duration::ZERO,
    max_entries: 10_000,
};

const ACCESSORS: Accessors = Accessors {
    policy: |_| Some(&POLICY),
    client: |_| Client { tenant: "", has_credentials: false },
    label: |_| Box::default(),
    set_label: |_, _| {},
};

/// An unsafe request once compared every entry in memory.
#[tokio::test]
async fn the_cost_of_an_unsafe_request_does_not_grow_with_the_number_of_entries() {
    let cache = Cache::new(None);
    let layer = HttpCacheLayer::new(cache.clone(), "test", ACCESSORS);
    let inner = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"yes"))))
    });
    let send = |method: Method, uri: String| {
        let request = Request::builder().method(method).uri(uri).body(Full::default()).unwrap();
        layer.layer(inner).oneshot(request)
    };
    for i in 0..1_000 {
        let Ok(_) = send(Method::GET, format!("/{i}?q")).await;
    }
    MATCH_CALLS.set(0);
    let Ok(_) = send(Method::POST, "/7".into()).await;
    let Ok(_) = send(Method::DELETE, "/elsewhere".into()).await;
    assert_eq!((MATCH_CALLS.get(), cache.stats().entries), (1, 999));
}
