//! RFC 9111 for a shared cache: which answers may be stored, and for how long they are fresh.
//!
//! Strict where the standard leaves a choice: an answer that must be validated before each use
//! (`no-cache`), a partial one, one that sets a cookie or varies on everything is not stored.
//! Pure.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{
        AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_RANGE, DATE, EXPIRES, HeaderValue, PRAGMA, SET_COOKIE,
        VARY,
    },
};

/// The directives of a `Cache-Control` header, of a request or of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a directive of its own in the standard")]
#[allow(missing_docs, reason = "each is the directive of its name")]
pub struct CacheControl {
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub only_if_cached: bool,
    pub max_age: Option<Duration>,
    pub s_maxage: Option<Duration>,
    pub min_fresh: Option<Duration>,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
}

impl CacheControl {
    /// Reads all `Cache-Control` headers together. Of a directive given twice the stricter one
    /// counts; a number that is none counts as 0, as the standard asks of a careful cache.
    pub fn read(headers: &HeaderMap) -> Self {
        let mut out = Self::default();
        for value in headers.get_all(CACHE_CONTROL) {
            let Ok(text) = value.to_str() else {
                // Unreadable directives may have forbidden storing.
                out.no_store = true;
                continue;
            };
            for directive in split(text) {
                let (name, argument) = match directive.split_once('=') {
                    Some((name, argument)) => (name.trim(), Some(argument.trim())),
                    None => (directive.trim(), None),
                };
                out.take(&name.to_ascii_lowercase(), argument);
            }
        }
        out
    }

    fn take(&mut self, name: &str, argument: Option<&str>) {
        let shortest = |known: Option<Duration>| {
            let new = seconds(argument.unwrap_or_default());
            Some(known.map_or(new, |known| known.min(new)))
        };
        match name {
            "no-store" => self.no_store = true,
            "no-cache" => self.no_cache = true,
            "private" => self.private = true,
            "public" => self.public = true,
            "must-revalidate" | "proxy-revalidate" => self.must_revalidate = true,
            "only-if-cached" => self.only_if_cached = true,
            "max-age" => self.max_age = shortest(self.max_age),
            "s-maxage" => self.s_maxage = shortest(self.s_maxage),
            "min-fresh" => self.min_fresh = shortest(self.min_fresh),
            "stale-while-revalidate" => self.stale_while_revalidate = shortest(self.stale_while_revalidate),
            "stale-if-error" => self.stale_if_error = shortest(self.stale_if_error),
            _ => {}
        }
    }
}

/// The members of a comma-separated list; commas inside quotes do not separate.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

fn seconds(text: &str) -> Duration {
    let digits = text.trim_matches('"');
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        // A number too large to hold means "for ever".
        Duration::from_secs(digits.parse().unwrap_or(u64::from(u32::MAX)).min(u64::from(u32::MAX)))
    } else {
        Duration::ZERO
    }
}

/// What an answer allows a shared cache to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storable {
    /// For how long it says it is fresh; none: it leaves that to the cache.
    pub lifetime: Option<Duration>,
    /// For how long it says so to the client's own cache.
    pub max_age: Option<Duration>,
    /// Whether it says that it is for everybody.
    pub public: bool,
    /// Whether it must never be used stale.
    pub must_revalidate: bool,
    /// For how long it may be used stale while a new one is fetched, if it says.
    pub stale_while_revalidate: Option<Duration>,
    /// For how long it may be used stale after an error, if it says.
    pub stale_if_error: Option<Duration>,
    /// The age it already had.
    pub age: Duration,
    /// The request headers that it was chosen by.
    pub vary: Vec<HeaderName>,
}

/// Whether the answer to a GET may be stored, and on which terms.
///
/// `authorised` says that the request carried credentials, in `Authorization` or otherwise.
pub fn storable(
    request: &CacheControl,
    authorised: bool,
    status: StatusCode,
    answer: &HeaderMap,
) -> Option<Storable> {
    let control = CacheControl::read(answer);
    let forbidden = request.no_store
        || control.no_store
        || control.no_cache
        || control.private
        || answer.contains_key(SET_COOKIE)
        || answer.contains_key(CONTENT_RANGE)
        || (authorised && !(control.public || control.must_revalidate || control.s_maxage.is_some()));
    if forbidden {
        return None;
    }
    let lifetime = control.s_maxage.or(control.max_age).or_else(|| expires(answer));
    let understood = matches!(status.as_u16(), 200 | 203 | 300 | 301 | 308 | 404 | 410);
    // Temporary redirects are stored only when they say for how long.
    let temporary = matches!(status.as_u16(), 302 | 307) && lifetime.is_some();
    if !understood && !temporary {
        return None;
    }
    Some(Storable {
        lifetime,
        max_age: control.max_age,
        public: control.public,
        must_revalidate: control.must_revalidate || control.s_maxage.is_some(),
        stale_while_revalidate: control.stale_while_revalidate,
        stale_if_error: control.stale_if_error,
        age: age(answer),
        vary: vary(answer)?,
    })
}

/// The age that an answer had when it came.
pub(crate) fn age(answer: &HeaderMap) -> Duration {
    answer.get(AGE).and_then(|age| age.to_str().ok()).map_or(Duration::ZERO, seconds)
}

/// `Expires` as a lifetime; an unreadable date is in the past.
fn expires(answer: &HeaderMap) -> Option<Duration> {
    let date =
        |value: &HeaderValue| value.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok());
    let expires = answer.get(EXPIRES)?;
    let Some(expires) = date(expires) else { return Some(Duration::ZERO) };
    let made = answer.get(DATE).and_then(date).unwrap_or_else(std::time::SystemTime::now);
    Some(expires.duration_since(made).unwrap_or(Duration::ZERO))
}

/// The headers named by `Vary`; none when nothing can match, or when credentials choose.
pub(crate) fn vary(answer: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for value in answer.get_all(VARY) {
        for name in value.to_str().ok()?.split(',') {
            let name: HeaderName = match name.trim() {
                "" => continue,
                "*" => return None,
                name => name.parse().ok()?,
            };
            if name == AUTHORIZATION {
                return None;
            }
            names.push(name);
        }
    }
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Some(names)
}

/// What a client allows and asks of a stored answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// It wants a new answer.
    pub reload: bool,
    /// It wants a stored answer or none.
    pub only_if_cached: bool,
    /// It wants no older one.
    pub max_age: Option<Duration>,
    /// It wants one that stays fresh for so long.
    pub min_fresh: Option<Duration>,
}

impl Wish {
    /// From the directives of a request. `Pragma: no-cache` counts where there is no
    /// `Cache-Control`.
    pub fn read(headers: &HeaderMap, control: &CacheControl) -> Self {
        let pragma = !headers.contains_key(CACHE_CONTROL)
            && headers.get(PRAGMA).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"no-cache"));
        Self {
            reload: control.no_cache || control.no_store || pragma,
            only_if_cached: control.only_if_cached,
            max_age: control.max_age,
            min_fresh: control.min_fresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http::{Request, Response};
    use http_cache_semantics::{BeforeRequest, CacheOptions, CachePolicy};
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    fn stores(pairs: &[(&str, &str)]) -> Option<Storable> {
        storable(&CacheControl::default(), false, StatusCode::OK, &headers(pairs))
    }

    #[test]
    fn an_answer_that_says_nothing_is_stored_on_the_policy_s_terms() {
        let terms = stores(&[]).unwrap();
        assert_eq!((terms.lifetime, terms.must_revalidate), (None, false));
    }

    #[test]
    fn pragma_counts_where_there_is_no_cache_control() {
        let reloads = |pairs: &[(&str, &str)]| {
            let headers = headers(pairs);
            Wish::read(&headers, &CacheControl::read(&headers)).reload
        };
        assert!(reloads(&[("pragma", "No-Cache")]));
        assert!(!reloads(&[("pragma", "no-cache"), ("cache-control", "max-age=5")]));
        assert!(!reloads(&[("pragma", "something-else")]) && !reloads(&[]));
        assert!(reloads(&[("cache-control", "no-cache")]) && reloads(&[("cache-control", "no-store")]));
    }

    #[test]
    fn what_forbids_storing_is_obeyed() {
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
            assert_eq!(stores(&[(name, value)]), None, "{name}: {value}");
        }
    }

    #[test]
    fn errors_and_partial_answers_are_not_stored() {
        for status in [206, 400, 401, 403, 429, 500, 502, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = headers(&[("cache-control", "public, max-age=60")]);
            assert_eq!(storable(&CacheControl::default(), false, status, &answer), None, "{status}");
        }
    }

    #[test]
    fn an_answer_to_credentials_is_stored_only_when_it_says_so() {
        let ask = |value| {
            let answer = headers(&[("cache-control", value)]);
            storable(&CacheControl::default(), true, StatusCode::OK, &answer).is_some()
        };
        assert!(!ask("max-age=60"));
        assert!(ask("public, max-age=60"));
        assert!(ask("s-maxage=60"));
    }

    #[test]
    fn the_shared_lifetime_goes_before_the_private_one_before_expires() {
        let date = ("date", "Tue, 24 Nov 2026 10:00:00 GMT");
        let expires = ("expires", "Tue, 24 Nov 2026 10:00:30 GMT");
        let lifetime = |pairs: &[(&str, &str)]| stores(pairs).unwrap().lifetime.map(|d| d.as_secs());
        assert_eq!(lifetime(&[date, expires]), Some(30));
        assert_eq!(lifetime(&[date, expires, ("cache-control", "max-age=20")]), Some(20));
        assert_eq!(lifetime(&[("cache-control", "max-age=20, s-maxage=10")]), Some(10));
        assert_eq!(lifetime(&[("expires", "0")]), Some(0));
        assert_eq!(lifetime(&[("cache-control", "max-age=soon")]), Some(0));
    }

    #[test]
    fn of_a_directive_given_twice_the_stricter_one_counts() {
        let control =
            CacheControl::read(&headers(&[("cache-control", "max-age=20"), ("cache-control", "max-age=5")]));
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
        /// What is stored here is storable to an independent implementation of the standard, and
        /// never fresh for longer there than here.
        #[test]
        fn agrees_with_an_independent_implementation(
            directives in proptest::collection::vec(directive(), 0..4),
            status in prop_oneof![Just(200_u16), Just(203), Just(301), Just(302), Just(404), Just(410), Just(500), Just(206)],
            authorised: bool, cookie: bool, age in 0..50_u32,
            vary in prop_oneof![Just(None), Just(Some("accept")), Just(Some("*"))],
        ) {
            let mut answer = headers(&[("age", &age.to_string())]);
            if !directives.is_empty() {
                answer.insert(CACHE_CONTROL, directives.join(", ").parse().unwrap());
            }
            if cookie {
                answer.insert(SET_COOKIE, HeaderValue::from_static("a=b"));
            }
            if let Some(vary) = vary {
                answer.insert(VARY, HeaderValue::from_static(vary));
            }
            let status = StatusCode::from_u16(status).unwrap();
            let mut request = Request::get("http://service/x").body(()).unwrap();
            if authorised {
                request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
            }
            let mut response = Response::new(());
            *response.status_mut() = status;
            *response.headers_mut() = answer.clone();
            let now = SystemTime::now();
            let oracle = CachePolicy::new_options(&request, &response, now, CacheOptions::default());
            if let Some(terms) = storable(&CacheControl::default(), authorised, status, &answer) {
                prop_assert!(oracle.is_storable());
                if let Some(lifetime) = terms.lifetime {
                    let left = lifetime.saturating_sub(terms.age);
                    let fresh_there = matches!(oracle.before_request(&request, now), BeforeRequest::Fresh(_));
                    prop_assert!(left.is_zero() || fresh_there, "fresh here for {left:?}");
                    if !left.is_zero() {
                        let end = now + left - Duration::from_millis(500);
                        prop_assert!(matches!(oracle.before_request(&request, end), BeforeRequest::Fresh(_)));
                    }
                }
            }
        }

        #[test]
        fn never_panics(text in "[ -~]{0,80}") {
            let _ = CacheControl::read(&headers(&[("cache-control", &text)]));
        }
    }
}
