//! RFC 9111 for a shared cache: which responses may be stored, and how long they are fresh.
//!
//! Takes the strict reading where the standard leaves a choice: does not store a response that must be
//! revalidated before each use (`no-cache`), a partial response, one that sets a cookie, or one that varies
//! on everything. Pure: does no I/O. Leaves the age of stored responses to [`crate::freshness`].

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{
        AGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_RANGE, DATE, EXPIRES, HeaderValue, PRAGMA, SET_COOKIE,
        VARY,
    },
};

#[cfg(test)]
mod tests;

/// Directives of the `Cache-Control` headers of a request or a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a separate directive in the standard")]
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
    /// Parses all `Cache-Control` headers as one list. The stricter of two repeated directives wins. An
    /// invalid number of seconds counts as 0, which makes the response stale, as RFC 9111, section 4.2.1
    /// encourages.
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut out = Self::default();
        for value in headers.get_all(CACHE_CONTROL) {
            let Ok(text) = value.to_str() else {
                // Unreadable directives may have forbidden storing.
                out.no_store = true;
                continue;
            };
            for directive in split_list(text) {
                let (name, argument) = match directive.split_once('=') {
                    Some((name, argument)) => (name.trim(), Some(argument.trim())),
                    None => (directive.trim(), None),
                };
                out.apply(&name.to_ascii_lowercase(), argument);
            }
        }
        out
    }

    fn apply(&mut self, name: &str, argument: Option<&str>) {
        let shortest = |current: Option<Duration>| {
            let new = parse_seconds(argument.unwrap_or_default());
            Some(current.map_or(new, |current| current.min(new)))
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

/// Splits a comma-separated list; commas inside quoted strings do not separate.
pub(crate) fn split_list(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

fn parse_seconds(text: &str) -> Duration {
    let digits = text.trim_matches('"');
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        // A number that overflows means infinity (RFC 9111, section 1.2.2).
        Duration::from_secs(digits.parse().unwrap_or(u64::from(u32::MAX)).min(u64::from(u32::MAX)))
    } else {
        Duration::ZERO
    }
}

/// Limits that a storable response sets for its own reuse by a shared cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// Freshness lifetime for a shared cache; `None` if the response leaves it to the cache.
    pub lifetime: Option<Duration>,
    /// Freshness lifetime for the client's private cache.
    pub max_age: Option<Duration>,
    /// True if the response is marked `public`.
    pub public: bool,
    /// True if the response must not be served stale.
    pub must_revalidate: bool,
    /// Time for which the stale response may be served while a new one is fetched, if it states one.
    pub stale_while_revalidate: Option<Duration>,
    /// Time for which the stale response may be served after an error, if it states one.
    pub stale_if_error: Option<Duration>,
    /// Age with which the response arrived.
    pub received_age: Duration,
    /// Request headers that selected the response.
    pub vary: Vec<HeaderName>,
}

/// Returns the directives of a response to a `GET` request if the response may be stored.
///
/// `has_credentials` is true if the request carried credentials, in `Authorization` or elsewhere.
pub fn storable(
    request: &CacheControl,
    has_credentials: bool,
    status: StatusCode,
    response: &HeaderMap,
) -> Option<ResponseDirectives> {
    let control = CacheControl::parse(response);
    let forbidden = request.no_store
        || control.no_store
        || control.no_cache
        || control.private
        || response.contains_key(SET_COOKIE)
        || response.contains_key(CONTENT_RANGE)
        || (has_credentials && !(control.public || control.must_revalidate || control.s_maxage.is_some()));
    if forbidden {
        return None;
    }
    let lifetime = control.s_maxage.or(control.max_age).or_else(|| expires(response));
    let is_heuristically_cacheable = matches!(status.as_u16(), 200 | 203 | 300 | 301 | 308 | 404 | 410);
    // Temporary redirects are stored only with an explicit lifetime.
    let is_explicit_redirect = matches!(status.as_u16(), 302 | 307) && lifetime.is_some();
    if !is_heuristically_cacheable && !is_explicit_redirect {
        return None;
    }
    Some(ResponseDirectives {
        lifetime,
        max_age: control.max_age,
        public: control.public,
        must_revalidate: control.must_revalidate || control.s_maxage.is_some(),
        stale_while_revalidate: control.stale_while_revalidate,
        stale_if_error: control.stale_if_error,
        received_age: received_age(response),
        vary: vary(response)?,
    })
}

/// Returns the value of the response's `Age` header.
pub(crate) fn received_age(response: &HeaderMap) -> Duration {
    response.get(AGE).and_then(|age| age.to_str().ok()).map_or(Duration::ZERO, parse_seconds)
}

/// Returns `Expires` as a lifetime from `Date` on; an unreadable date counts as the past.
fn expires(response: &HeaderMap) -> Option<Duration> {
    let parse_date =
        |value: &HeaderValue| value.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok());
    let expires = response.get(EXPIRES)?;
    let Some(expires) = parse_date(expires) else { return Some(Duration::ZERO) };
    let date = response.get(DATE).and_then(parse_date).unwrap_or_else(std::time::SystemTime::now);
    Some(expires.duration_since(date).unwrap_or(Duration::ZERO))
}

/// Returns the headers named by `Vary`, sorted and without duplicates. `None` if no other request can match
/// (`Vary: *`) or if the response was selected by `Authorization`.
pub(crate) fn vary(response: &HeaderMap) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for value in response.get_all(VARY) {
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

/// Limits that a request sets for the stored response it accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// True if the client demands a new response from the origin.
    pub reload: bool,
    /// True if the client accepts only a stored response.
    pub only_if_cached: bool,
    /// Largest age that the client accepts.
    pub max_age: Option<Duration>,
    /// Shortest remaining freshness lifetime that the client accepts.
    pub min_fresh: Option<Duration>,
}

impl RequestDirectives {
    /// Derives the limits from a request's headers and their parsed `Cache-Control`. `Pragma: no-cache`
    /// counts only if there is no `Cache-Control` header.
    pub fn parse(headers: &HeaderMap, control: &CacheControl) -> Self {
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
