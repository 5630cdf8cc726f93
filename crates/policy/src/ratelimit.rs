//! Rate limit settings: buckets, their keys, and behavior while the shared state is unavailable.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rate limit of a service: one token bucket per key. A request takes one token. A request that finds no
/// token is rejected with status 429 and a `Retry-After` header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.key != 'Header' || has(self.headerName)",
        "message": "headerName must be given when key is Header",
        "fieldPath": ".headerName",
    },
    {
        "rule": "self.key == 'Header' || !has(self.headerName)",
        "message": "headerName is only used when key is Header",
        "fieldPath": ".headerName",
    },
]))]
pub struct RateLimit {
    /// Tokens in a full bucket, which is the largest burst of requests of one key, from 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub capacity: i64,

    /// Tokens added to each bucket per second, from 0.001 to 1000000. Fractions are allowed: 0.5 adds one
    /// token every two seconds.
    // API servers round the bounds of an integer value down, so the minimum alone would accept 0.
    #[schemars(range(min = 0.001, max = 1_000_000.0), extend("x-kubernetes-validations" = [{
        "rule": "self >= 0.001",
        "message": "must be a number from 0.001 to 1000000",
    }]))]
    pub refill_per_second: f64,

    /// Property of a request that selects its bucket. Client: the owner of the API key, or the client address
    /// without a key. Ip: the client address; all IPv6 addresses of a /64 network share a bucket. Global: one
    /// bucket for all requests. Header: the value of the header in `headerName`. Default Client.
    #[serde(default)]
    pub key: Key,

    /// Request header that contains the key if `key` is Header, from 1 to 64 letters, digits and dashes. A
    /// request without this header is counted by its client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[A-Za-z0-9-]+$')",
        "message": "must be a header name of letters, digits and dashes",
    }]))]
    pub header_name: Option<String>,

    /// Location of the buckets. Shared: all replicas of the service use one bucket per key. `PerReplica`:
    /// each replica has a separate bucket per key. Default Shared.
    #[serde(default)]
    pub scope: Scope,

    /// Effect of the limit. Enforce: requests above the limit are rejected. Shadow: decisions are made and
    /// counted, and every request is admitted. Off: no decisions are made. Default Enforce.
    #[serde(default)]
    pub mode: Mode,

    /// Behavior of a shared limit while Redis is unavailable. `LocalShare`: each replica enforces its share
    /// of the limit; in an outage that affects all replicas they admit at most 1.5 times the limit. Allow:
    /// every request is admitted. Deny: every request is rejected. Default `LocalShare`.
    #[serde(default)]
    pub on_backend_failure: BackendFailure,

    /// Limits for specific paths or methods, at most 32. The first override that matches a request replaces
    /// the limit above and has separate buckets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub overrides: Vec<Override>,
}

impl RateLimit {
    /// Returns the share of one of `replicas` replicas without shared state, such that all of them together
    /// keep to the limit. The capacity of a share is at least 1, so more replicas than `capacity` admit one
    /// request each. A limit per replica is not divided.
    #[must_use]
    pub fn share(&self, replicas: u32) -> Self {
        let mut share = self.clone();
        if self.scope == Scope::Shared && replicas > 1 {
            let divide = |capacity: i64, refill: f64| {
                ((capacity / i64::from(replicas)).max(1), refill / f64::from(replicas))
            };
            (share.capacity, share.refill_per_second) = divide(self.capacity, self.refill_per_second);
            for rule in &mut share.overrides {
                (rule.capacity, rule.refill_per_second) = divide(rule.capacity, rule.refill_per_second);
            }
        }
        share
    }
}

/// Property of a request that selects its bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Key {
    /// Owner of the API key; the client address for a request without an API key.
    #[default]
    Client,
    /// Client address; all IPv6 addresses of a /64 network share a bucket.
    Ip,
    /// One bucket for all requests.
    Global,
    /// Value of the request header `headerName`.
    Header,
}

/// Location of the buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// All replicas use one bucket per key.
    #[default]
    Shared,
    /// Each replica has a separate bucket per key.
    PerReplica,
}

/// Effect of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Reject requests above the limit.
    #[default]
    Enforce,
    /// Make and count decisions, and admit every request.
    Shadow,
    /// Make no decisions.
    Off,
}

/// Behavior of a shared limit while Redis is unavailable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackendFailure {
    /// Each replica enforces its share of the limit.
    #[default]
    LocalShare,
    /// Admit every request.
    Allow,
    /// Reject every request.
    Deny,
}

/// Limit for requests that match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    /// Requests that the override applies to.
    #[serde(rename = "match")]
    pub matches: Match,

    /// Tokens in a full bucket, which is the largest burst of requests of one key, from 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub capacity: i64,

    /// Tokens added to each bucket per second, from 0.001 to 1000000.
    // API servers round the bounds of an integer value down, so the minimum alone would accept 0.
    #[schemars(range(min = 0.001, max = 1_000_000.0), extend("x-kubernetes-validations" = [{
        "rule": "self >= 0.001",
        "message": "must be a number from 0.001 to 1000000",
    }]))]
    pub refill_per_second: f64,
}

/// Requests that an override applies to. An absent field matches every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.path) || has(self.method)",
    "message": "must name a path, a method or both",
}]))]
pub struct Match {
    /// Request path without the query: an exact path, or a prefix of whole segments with a final `/*`
    /// (`/api/*` matches `/api` and `/api/v1`, not `/apix`). At most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^(/[^/*?# ]*)*(/[*])?$') && self.startsWith('/')",
        "message": "must be a path such as /api/v1/providers/burst or /api/v1/*",
    }]))]
    pub path: Option<String>,

    /// Request method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

/// HTTP request method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "each variant is the HTTP method of that name")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    /// Returns the method as in a request line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

impl Match {
    /// Returns true if a request with this method and path (without query) matches.
    pub fn accepts(&self, method: &str, path: &str) -> bool {
        let path_matches = self.path.as_deref().is_none_or(|pattern| match pattern.strip_suffix("/*") {
            Some(parent) => {
                path.strip_prefix(parent).is_some_and(|below| below.is_empty() || below.starts_with('/'))
            }
            None => path == pattern,
        });
        path_matches && self.method.is_none_or(|expected| expected.as_str() == method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> Match {
        Match { path: Some(path.into()), method: None }
    }

    #[test]
    fn a_path_matches_exactly_or_by_whole_segments() {
        assert!(path("/a/b").accepts("GET", "/a/b"));
        assert!(!path("/a/b").accepts("GET", "/a/b/c"));
        assert!(path("/a/*").accepts("GET", "/a/b/c"));
        assert!(path("/a/*").accepts("GET", "/a"));
        assert!(!path("/a/*").accepts("GET", "/ab"));
        assert!(path("/*").accepts("GET", "/anything"));
    }

    #[test]
    fn replicas_without_shared_state_divide_a_shared_limit() {
        let limit: RateLimit = serde_json::from_str(
            r#"{"capacity": 100, "refillPerSecond": 10, "overrides": [{"match": {}, "capacity": 2, "refillPerSecond": 1}]}"#,
        )
        .unwrap();
        assert_eq!(limit.share(1), limit);
        let third = limit.share(3);
        assert_eq!((third.capacity, third.refill_per_second), (33, 10.0 / 3.0));
        assert_eq!(third.overrides[0].capacity, 1, "the capacity of a share is at least 1");
        let per_replica = RateLimit { scope: Scope::PerReplica, ..limit };
        assert_eq!(per_replica.share(3), per_replica);
    }

    #[test]
    fn a_method_narrows_a_match() {
        let posts = Match { path: None, method: Some(Method::Post) };
        assert!(posts.accepts("POST", "/x"));
        assert!(!posts.accepts("GET", "/x"));
    }
}
