use std::time::SystemTime;

use http::{Request, Response};
use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy as ReferencePolicy};
use proptest::prelude::*;

use super::*;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    map
}

fn storable_with(pairs: &[(&str, &str)]) -> Option<ResponseDirectives> {
    storable(&CacheControl::default(), false, StatusCode::OK, &headers(pairs))
}

#[test]
fn a_response_without_directives_is_stored_for_the_lifetime_of_the_policy() {
    let directives = storable_with(&[]).unwrap();
    assert_eq!((directives.lifetime, directives.must_revalidate), (None, false));
}

#[test]
fn pragma_no_cache_counts_only_without_cache_control() {
    let reloads = |pairs: &[(&str, &str)]| {
        let headers = headers(pairs);
        RequestDirectives::parse(&headers, &CacheControl::parse(&headers)).reload
    };
    assert!(reloads(&[("pragma", "No-Cache")]));
    assert!(!reloads(&[("pragma", "no-cache"), ("cache-control", "max-age=5")]));
    assert!(!reloads(&[("pragma", "something-else")]) && !reloads(&[]));
    assert!(reloads(&[("cache-control", "no-cache")]) && reloads(&[("cache-control", "no-store")]));
}

#[test]
fn a_response_whose_headers_forbid_storing_is_not_storable() {
    for (name, value) in [
        ("cache-control", "no-store"),
        ("cache-control", "max-age=10, private"),
        ("cache-control", "No-Cache"),
        ("cache-control", "private=\"x, y\", max-age=5"),
        ("set-cookie", "a=b"),
        ("vary", "*"),
        ("vary", "accept, authorization"),
        ("content-range", "bytes 0-1/2"),
    ] {
        assert_eq!(storable_with(&[(name, value)]), None, "{name}: {value}");
    }
}

#[test]
fn errors_and_partial_responses_are_not_storable() {
    for status in [206, 400, 401, 403, 429, 500, 502, 503] {
        let status = StatusCode::from_u16(status).unwrap();
        let response = headers(&[("cache-control", "public, max-age=60")]);
        assert_eq!(storable(&CacheControl::default(), false, status, &response), None, "{status}");
    }
}

#[test]
fn a_response_to_credentials_is_storable_only_with_an_explicit_directive() {
    let is_storable = |value| {
        let response = headers(&[("cache-control", value)]);
        storable(&CacheControl::default(), true, StatusCode::OK, &response).is_some()
    };
    assert!(!is_storable("max-age=60"));
    assert!(is_storable("public, max-age=60"));
    assert!(is_storable("s-maxage=60"));
}

#[test]
fn s_maxage_takes_precedence_over_max_age_over_expires() {
    let date = ("date", "Tue, 24 Nov 2026 10:00:00 GMT");
    let expires = ("expires", "Tue, 24 Nov 2026 10:00:30 GMT");
    let lifetime = |pairs: &[(&str, &str)]| storable_with(pairs).unwrap().lifetime.map(|d| d.as_secs());
    assert_eq!(lifetime(&[date, expires]), Some(30));
    assert_eq!(lifetime(&[date, expires, ("cache-control", "max-age=20")]), Some(20));
    assert_eq!(lifetime(&[("cache-control", "max-age=20, s-maxage=10")]), Some(10));
    assert_eq!(lifetime(&[("expires", "0")]), Some(0));
    assert_eq!(lifetime(&[("cache-control", "max-age=soon")]), Some(0));
}

#[test]
fn the_stricter_of_two_repeated_directives_wins() {
    let control =
        CacheControl::parse(&headers(&[("cache-control", "max-age=20"), ("cache-control", "max-age=5")]));
    assert_eq!(control.max_age, Some(Duration::from_secs(5)));
}

fn directive() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("no-store".to_owned()),
        Just("no-cache".to_owned()),
        Just("private".to_owned()),
        Just("public".to_owned()),
        Just("must-revalidate".to_owned()),
        (0..100_u32).prop_map(|n| format!("max-age={n}")),
        (0..100_u32).prop_map(|n| format!("s-maxage={n}")),
    ]
}

proptest! {
    /// Every response storable here is storable to an independent implementation of the standard, and is
    /// fresh there for at least as long as here.
    #[test]
    fn agrees_with_an_independent_implementation(
        directives in proptest::collection::vec(directive(), 0..4),
        status in proptest::sample::select(vec![200_u16, 203, 301, 302, 404, 410, 500, 206]),
        has_credentials: bool, cookie: bool, age in 0..50_u32,
        vary in prop_oneof![Just(None), Just(Some("accept")), Just(Some("*"))],
    ) {
        let mut response_headers = headers(&[("age", &age.to_string())]);
        if !directives.is_empty() {
            response_headers.insert(CACHE_CONTROL, directives.join(", ").parse().unwrap());
        }
        if cookie {
            response_headers.insert(SET_COOKIE, HeaderValue::from_static("a=b"));
        }
        if let Some(vary) = vary {
            response_headers.insert(VARY, HeaderValue::from_static(vary));
        }
        let status = StatusCode::from_u16(status).unwrap();
        let mut request = Request::get("http://service/x").body(()).unwrap();
        if has_credentials {
            request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = response_headers.clone();
        let now = SystemTime::now();
        let reference = ReferencePolicy::new_options(&request, &response, now, CacheOptions::default());
        let control = CacheControl::default();
        if let Some(directives) = storable(&control, has_credentials, status, &response_headers) {
            prop_assert!(reference.is_storable());
            if let Some(lifetime) = directives.lifetime {
                let left = lifetime.saturating_sub(directives.received_age);
                let is_fresh = |at| matches!(reference.before_request(&request, at), BeforeRequest::Fresh(_));
                prop_assert!(left.is_zero() || is_fresh(now), "fresh here for {left:?}");
                if !left.is_zero() {
                    let end = now + left - Duration::from_millis(500);
                    prop_assert!(is_fresh(end));
                }
            }
        }
    }

    #[test]
    fn parsing_any_cache_control_value_does_not_panic(text in "[ -~]{0,80}") {
        let _ = CacheControl::parse(&headers(&[("cache-control", &text)]));
    }
}
