//! How many requests are admitted, for whom, and what happens when the shared state is gone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rate limit of a service: a token bucket for every key. A request takes one token; a request
/// that finds none is refused with 429 and the time after which one will be there.
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
    /// Tokens in a full bucket: how many requests of one key are admitted in one burst, from 1 to
    /// 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub capacity: i64,

    /// Tokens that flow into the bucket of each key per second, from 0.001 to 1000000. Fractions
    /// are allowed: 0.5 is one token every two seconds.
    // API servers round a bound of a whole number down: 0 would pass the minimum.
    #[schemars(range(min = 0.001, max = 1_000_000.0), extend("x-kubernetes-validations" = [{
        "rule": "self >= 0.001",
        "message": "must be a number from 0.001 to 1000000",
    }]))]
    pub refill_per_second: f64,

    /// Whose requests share a bucket. Default Client.
    #[serde(default)]
    pub key: Key,

    /// The request header whose value is the key when `key` is Header. A request without it is
    /// counted under its client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^[A-Za-z0-9-]+$')",
        "message": "must be a header name of letters, digits and dashes",
    }]))]
    pub header_name: Option<String>,

    /// Whether all replicas of the service draw on one bucket per key (Shared) or each replica has
    /// its own (`PerReplica`). Default Shared.
    #[serde(default)]
    pub scope: Scope,

    /// Enforce refuses; Shadow decides and counts but lets every request through; Off does
    /// nothing. Default Enforce.
    #[serde(default)]
    pub mode: Mode,

    /// What a shared limit does while the shared state cannot be reached. `LocalShare`: each
    /// replica goes on with its part of the limit, never more than 1.5 times the limit in total.
    /// Allow admits everything, Deny refuses everything. Default `LocalShare`.
    #[serde(default)]
    pub on_backend_failure: BackendFailure,

    /// Other limits for single paths or methods. The first one that matches a request decides, with
    /// a bucket of its own; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub overrides: Vec<Override>,
}

impl RateLimit {
    /// The part of one of `replicas` replicas that have no state in common, so that all of them
    /// together keep to the limit. A replica admits at least one request in a burst, so more replicas
    /// than `capacity` admit one each. A limit per replica is not divided.
    #[must_use]
    pub fn share(&self, replicas: u32) -> Self {
        let mut share = self.clone();
        if self.scope == Scope::Shared && replicas > 1 {
            let part = |capacity: i64, refill: f64| {
                ((capacity / i64::from(replicas)).max(1), refill / f64::from(replicas))
            };
            (share.capacity, share.refill_per_second) = part(self.capacity, self.refill_per_second);
            for rule in &mut share.overrides {
                (rule.capacity, rule.refill_per_second) = part(rule.capacity, rule.refill_per_second);
            }
        }
        share
    }
}

/// Whose requests share a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Key {
    /// The API key's owner; for a request without one, the client address.
    #[default]
    Client,
    /// The client address; IPv6 addresses of one /64 network count as one.
    Ip,
    /// One bucket for everybody.
    Global,
    /// The value of the header named by `headerName`.
    Header,
}

/// Where a bucket lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// One bucket per key for all replicas.
    #[default]
    Shared,
    /// One bucket per key in each replica.
    PerReplica,
}

/// What is done with a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Refuse what is over the limit.
    #[default]
    Enforce,
    /// Decide and count, let everything through.
    Shadow,
    /// Decide nothing.
    Off,
}

/// What a shared limit does while the shared state cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackendFailure {
    /// Each replica enforces its part of the limit.
    #[default]
    LocalShare,
    /// Admit everything.
    Allow,
    /// Refuse everything.
    Deny,
}

/// A limit of its own for requests that match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    /// Which requests.
    #[serde(rename = "match")]
    pub matches: Match,

    /// Tokens in a full bucket, from 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub capacity: i64,

    /// Tokens per second, from 0.001 to 1000000.
    // API servers round a bound of a whole number down: 0 would pass the minimum.
    #[schemars(range(min = 0.001, max = 1_000_000.0), extend("x-kubernetes-validations" = [{
        "rule": "self >= 0.001",
        "message": "must be a number from 0.001 to 1000000",
    }]))]
    pub refill_per_second: f64,
}

/// Which requests an override is for. What is left out matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.path) || has(self.method)",
    "message": "must name a path, a method or both",
}]))]
pub struct Match {
    /// The request path: exactly this one, or with a final `/*` everything below it, by whole
    /// segments (`/api/*` matches `/api/v1`, not `/apix`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = [{
        "rule": "self.matches('^(/[^/*?# ]*)*(/[*])?$') && self.startsWith('/')",
        "message": "must be a path such as /api/v1/providers/burst or /api/v1/*",
    }]))]
    pub path: Option<String>,

    /// The request method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

/// An HTTP request method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "each is the method of its name")]
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
    /// As it stands in a request line.
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
    /// Whether a request with this method and path (no query) is meant.
    pub fn accepts(&self, method: &str, path: &str) -> bool {
        let path_fits = self.path.as_deref().is_none_or(|wanted| match wanted.strip_suffix("/*") {
            Some(parent) => {
                path.strip_prefix(parent).is_some_and(|below| below.is_empty() || below.starts_with('/'))
            }
            None => path == wanted,
        });
        path_fits && self.method.is_none_or(|wanted| wanted.as_str() == method)
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
    fn replicas_without_common_state_divide_a_shared_limit() {
        let limit: RateLimit = serde_json::from_str(
            r#"{"capacity": 100, "refillPerSecond": 10, "overrides": [{"match": {}, "capacity": 2, "refillPerSecond": 1}]}"#,
        )
        .unwrap();
        assert_eq!(limit.share(1), limit);
        let third = limit.share(3);
        assert_eq!((third.capacity, third.refill_per_second), (33, 10.0 / 3.0));
        assert_eq!(third.overrides[0].capacity, 1, "one request is always admitted");
        let own = RateLimit { scope: Scope::PerReplica, ..limit };
        assert_eq!(own.share(3), own);
    }

    #[test]
    fn a_method_narrows_a_match() {
        let posts = Match { path: None, method: Some(Method::Post) };
        assert!(posts.accepts("POST", "/x"));
        assert!(!posts.accepts("GET", "/x"));
    }
}
