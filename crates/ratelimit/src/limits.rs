//! A policy's rate limit in the form that requests are held against.

use std::{hash::BuildHasher, net::IpAddr, sync::Arc};

use foldhash::quality::FixedState;
use http::{HeaderName, HeaderValue};
use phase6_policy::{self as policy, Key, Match, Mode, Scope};

use crate::{
    Bucketed, Terms,
    backend::{Sharing, Whose},
    gcra::Limit,
};

/// What one service enforces at a time.
#[derive(Clone, Debug)]
pub struct Limits {
    mode: Mode,
    key: Key,
    header: Option<HeaderName>,
    default: Arc<Rule>,
    overrides: Vec<(Match, Arc<Rule>)>,
}

/// One limit and the header values that speak of it.
#[derive(Debug)]
pub struct Rule {
    /// What is enforced.
    pub terms: Terms,
    pub(crate) name: String,
    pub(crate) policy_header: HeaderValue,
    pub(crate) capacity_header: HeaderValue,
    id: u64,
}

impl Rule {
    fn new(identity: &str, name: String, terms: Terms) -> Arc<Self> {
        let window = terms.limit.window().as_secs_f64().ceil() as u64;
        let capacity = terms.limit.capacity() as u64;
        let policy = format!("\"{name}\";q={capacity};w={window}");
        Arc::new(Self {
            terms,
            name,
            policy_header: HeaderValue::from_str(&policy).expect("digits and a plain name"),
            capacity_header: HeaderValue::from(capacity),
            id: FixedState::default().hash_one(identity),
        })
    }
}

impl Limits {
    /// Compiles a policy for one of `replicas` replicas. A bucket belongs to what its rule matches, not to
    /// the rule's place or numbers, so editing numbers or reordering rules keeps every bucket.
    ///
    /// Without `shared` state a limit for all replicas is divided among them.
    pub fn new(policy: &policy::RateLimit, replicas: u32, shared: bool) -> Self {
        let divided = policy.share(replicas);
        let sharing = (shared && policy.scope == Scope::Shared).then_some(policy.on_backend_failure);
        let terms = |whole: (i64, f64), part: (i64, f64)| {
            let (whole, share) = (Limit::new(whole.0, whole.1), Limit::new(part.0, part.1));
            match sharing {
                Some(on_failure) => {
                    Terms { limit: whole, sharing: Some(Sharing { replicas, share, on_failure }) }
                }
                None => Terms { limit: share, sharing: None },
            }
        };
        let default =
            terms((policy.capacity, policy.refill_per_second), (divided.capacity, divided.refill_per_second));
        Self {
            mode: policy.mode,
            key: policy.key,
            header: policy.header_name.as_ref().and_then(|name| name.parse().ok()),
            default: Rule::new("", "default".into(), default),
            overrides: policy
                .overrides
                .iter()
                .zip(&divided.overrides)
                .enumerate()
                .map(|(i, (rule, part))| {
                    let method = rule.matches.method.map_or("", policy::Method::as_str);
                    let identity = format!("{method} {}", rule.matches.path.as_deref().unwrap_or("*"));
                    let name = format!("override-{}", i + 1);
                    let terms = terms(
                        (rule.capacity, rule.refill_per_second),
                        (part.capacity, part.refill_per_second),
                    );
                    let compiled = Rule::new(&identity, name, terms);
                    (rule.matches.clone(), compiled)
                })
                .collect(),
        }
    }

    /// What is done with a decision.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The rule that decides about a request.
    pub fn rule(&self, method: &str, path: &str) -> &Arc<Rule> {
        let special = self.overrides.iter().find(|(matches, _)| matches.accepts(method, path));
        special.map_or(&self.default, |(_, rule)| rule)
    }

    /// The bucket of a request under `rule`.
    ///
    /// `owner` is the authenticated caller, `header` reads a request header.
    pub fn bucket<'a>(
        &self,
        rule: &Rule,
        owner: Option<&'a str>,
        address: IpAddr,
        header: impl FnOnce(&HeaderName) -> Option<&'a HeaderValue>,
        hasher: &impl BuildHasher,
    ) -> Bucketed<'a> {
        let whose = match self.key {
            Key::Global => Whose::Everybody,
            Key::Ip => address.into(),
            Key::Client => owner.map_or_else(|| address.into(), Whose::Client),
            Key::Header => {
                let value = self.header.as_ref().and_then(header);
                value.map_or_else(|| address.into(), |value| Whose::Header(value.as_bytes()))
            }
        };
        Bucketed::new(rule.id, whose, hasher)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits(value: serde_json::Value) -> Limits {
        Limits::new(&serde_json::from_value(value).unwrap(), 1, false)
    }

    fn bucket(limits: &Limits, owner: Option<&str>, address: &str, team: Option<&str>) -> (u64, String) {
        let team = team.map(|team| HeaderValue::from_str(team).unwrap());
        let rule = limits.rule("GET", "/");
        let bucket =
            limits.bucket(rule, owner, address.parse().unwrap(), |_| team.as_ref(), &FixedState::default());
        (bucket.hash, bucket.name())
    }

    #[test]
    fn the_first_override_that_matches_decides() {
        let limits = limits(json!({"capacity": 100, "refillPerSecond": 10, "overrides": [
            {"match": {"path": "/burst", "method": "POST"}, "capacity": 10, "refillPerSecond": 1},
            {"match": {"path": "/*"}, "capacity": 50, "refillPerSecond": 1},
        ]}));
        assert_eq!(limits.rule("POST", "/burst").terms.limit, Limit::new(10, 1.0));
        assert_eq!(limits.rule("GET", "/burst").terms.limit, Limit::new(50, 1.0));
        assert_eq!(limits.rule("POST", "/burst").policy_header, "\"override-1\";q=10;w=10");
    }

    #[test]
    fn a_client_is_its_key_or_else_its_address() {
        let limits = limits(json!({"capacity": 1, "refillPerSecond": 1}));
        let alice = bucket(&limits, Some("alice"), "10.0.0.1", None);
        assert_eq!(alice, bucket(&limits, Some("alice"), "10.0.0.2", None));
        assert_ne!(alice, bucket(&limits, Some("bob"), "10.0.0.1", None));
        assert_ne!(bucket(&limits, None, "10.0.0.1", None), bucket(&limits, None, "10.0.0.2", None));
    }

    #[test]
    fn ipv6_addresses_of_one_network_count_as_one() {
        let limits = limits(json!({"capacity": 1, "refillPerSecond": 1, "key": "Ip"}));
        let first = bucket(&limits, None, "2001:db8:0:1::1", None);
        assert_eq!(first, bucket(&limits, None, "2001:db8:0:1:ffff::2", None));
        assert_ne!(first, bucket(&limits, None, "2001:db8:0:2::1", None));
        assert_eq!(
            bucket(&limits, None, "10.0.0.1", None),
            bucket(&limits, None, "::ffff:10.0.0.1", None),
            "an IPv4 address written as IPv6 is the same client"
        );
    }

    #[test]
    fn everybody_shares_the_global_bucket() {
        let limits = limits(json!({"capacity": 1, "refillPerSecond": 1, "key": "Global"}));
        assert_eq!(bucket(&limits, Some("a"), "10.0.0.1", None), bucket(&limits, None, "10.0.0.9", None));
    }

    #[test]
    fn a_header_is_the_key_and_without_it_the_address() {
        let limits =
            limits(json!({"capacity": 1, "refillPerSecond": 1, "key": "Header", "headerName": "x-team"}));
        let red = bucket(&limits, None, "10.0.0.1", Some("red"));
        assert_eq!(red, bucket(&limits, None, "10.0.0.2", Some("red")));
        assert_ne!(red, bucket(&limits, None, "10.0.0.1", Some("blue")));
        assert_ne!(bucket(&limits, None, "10.0.0.1", None), bucket(&limits, None, "10.0.0.2", None));
    }

    #[test]
    fn editing_numbers_or_order_keeps_the_bucket() {
        let a = limits(json!({"capacity": 1, "refillPerSecond": 1, "overrides": [
            {"match": {"path": "/a"}, "capacity": 1, "refillPerSecond": 1},
            {"match": {"path": "/b"}, "capacity": 1, "refillPerSecond": 1},
        ]}));
        let b = limits(json!({"capacity": 9, "refillPerSecond": 9, "overrides": [
            {"match": {"path": "/b"}, "capacity": 9, "refillPerSecond": 9},
            {"match": {"path": "/a"}, "capacity": 9, "refillPerSecond": 9},
        ]}));
        assert_eq!(a.rule("GET", "/a").id, b.rule("GET", "/a").id);
        assert_ne!(a.rule("GET", "/a").id, a.rule("GET", "/b").id);
    }

    #[test]
    fn a_shared_limit_is_whole_where_there_is_shared_state_and_divided_where_there_is_none() {
        let policy = json!({"capacity": 10, "refillPerSecond": 4, "onBackendFailure": "Deny", "overrides": [
            {"match": {"path": "/a"}, "capacity": 4, "refillPerSecond": 1},
        ]});
        let policy: policy::RateLimit = serde_json::from_value(policy).unwrap();
        let shared = Limits::new(&policy, 2, true).rule("GET", "/").terms;
        assert_eq!(shared.limit, Limit::new(10, 4.0));
        let sharing = shared.sharing.unwrap();
        assert_eq!((sharing.replicas, sharing.share), (2, Limit::new(5, 2.0)));
        assert_eq!(sharing.on_failure, policy::BackendFailure::Deny);
        let alone = Limits::new(&policy, 2, false);
        assert_eq!(alone.rule("GET", "/").terms, Terms { limit: Limit::new(5, 2.0), sharing: None });
        assert_eq!(alone.rule("GET", "/a").terms.limit, Limit::new(2, 0.5));
        let own = policy::RateLimit { scope: Scope::PerReplica, ..policy };
        let own = Limits::new(&own, 2, true).rule("GET", "/").terms;
        assert_eq!(own, Terms { limit: Limit::new(10, 4.0), sharing: None });
    }
}
