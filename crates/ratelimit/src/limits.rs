//! The rate limit section of a policy, compiled for enforcement.
//!
//! Selects the rule that applies to a request and the bucket that the request draws on. Reads no clock and
//! holds no bucket.

use std::{hash::BuildHasher, net::IpAddr, sync::Arc};

use foldhash::quality::FixedState;
use http::{HeaderName, HeaderValue};
use phase6_policy::{self as policy, Key, Match, Mode, Scope};

use crate::{
    BucketConfig, BucketRef,
    backend::{BucketKey, Owner, Sharing},
    gcra::Limit,
};

/// The limits that a service enforces at one time.
#[derive(Clone, Debug)]
pub struct Limits {
    mode: Mode,
    key: Key,
    header: Option<HeaderName>,
    default: Arc<Rule>,
    overrides: Vec<(Match, Arc<Rule>)>,
}

/// One limit and the header values that describe it.
#[derive(Debug)]
pub struct Rule {
    /// Limit of each bucket of this rule.
    pub config: BucketConfig,
    pub(crate) name: String,
    pub(crate) policy_header: HeaderValue,
    pub(crate) capacity_header: HeaderValue,
    id: u64,
}

impl Rule {
    /// Creates a rule. `identity` determines which buckets belong to it.
    fn new(identity: &str, name: String, config: BucketConfig) -> Arc<Self> {
        let window = config.limit.window().as_secs_f64().ceil() as u64;
        let capacity = config.limit.capacity() as u64;
        let policy = format!("\"{name}\";q={capacity};w={window}");
        Arc::new(Self {
            config,
            name,
            policy_header: HeaderValue::from_str(&policy).expect("digits and a name of visible ASCII"),
            capacity_header: HeaderValue::from(capacity),
            id: FixedState::default().hash_one(identity),
        })
    }
}

impl Limits {
    /// Compiles a policy for one of `replicas` replicas.
    ///
    /// A rule's buckets are identified by the requests that it matches, not by its position or its figures:
    /// reordering rules or editing their figures keeps every bucket.
    ///
    /// Without shared state, a limit of scope `Shared` is divided among the replicas.
    pub fn new(policy: &policy::RateLimit, replicas: u32, has_shared_state: bool) -> Self {
        let divided = policy.share(replicas);
        let sharing =
            (has_shared_state && policy.scope == Scope::Shared).then_some(policy.on_backend_failure);
        let config = |whole: Limit, share: Limit| match sharing {
            Some(on_failure) => {
                BucketConfig { limit: whole, sharing: Some(Sharing { replicas, share, on_failure }) }
            }
            None => BucketConfig { limit: share, sharing: None },
        };
        let default = config(
            Limit::new(policy.capacity, policy.refill_per_second),
            Limit::new(divided.capacity, divided.refill_per_second),
        );
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
                .map(|(i, (rule, share))| {
                    let method = rule.matches.method.map_or("", policy::Method::as_str);
                    let identity = format!("{method} {}", rule.matches.path.as_deref().unwrap_or("*"));
                    let name = format!("override-{}", i + 1);
                    let config = config(
                        Limit::new(rule.capacity, rule.refill_per_second),
                        Limit::new(share.capacity, share.refill_per_second),
                    );
                    (rule.matches.clone(), Rule::new(&identity, name, config))
                })
                .collect(),
        }
    }

    /// Returns the enforcement mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Returns the rule for a request: the first override that matches it, or else the default rule.
    pub fn rule(&self, method: &str, path: &str) -> &Arc<Rule> {
        let special = self.overrides.iter().find(|(matches, _)| matches.accepts(method, path));
        special.map_or(&self.default, |(_, rule)| rule)
    }

    /// Returns the bucket of a request under `rule`.
    ///
    /// `owner` is the authenticated client, `address` its address; `header` reads a request header.
    pub fn bucket<'a>(
        &self,
        rule: &Rule,
        owner: Option<Owner<'a>>,
        address: IpAddr,
        header: impl FnOnce(&HeaderName) -> Option<&'a HeaderValue>,
        hasher: &impl BuildHasher,
    ) -> BucketRef<'a> {
        let key = match self.key {
            Key::Global => BucketKey::Global,
            Key::Ip => address.into(),
            Key::Client => owner.map_or_else(|| address.into(), BucketKey::Owner),
            Key::Header => {
                let value = self.header.as_ref().and_then(header);
                value.map_or_else(|| address.into(), |value| BucketKey::Header(value.as_bytes()))
            }
        };
        BucketRef::new(rule.id, key, hasher)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn limits(value: serde_json::Value) -> Limits {
        Limits::new(&serde_json::from_value(value).unwrap(), 1, false)
    }

    fn bucket(limits: &Limits, owner: Option<Owner<'_>>, address: &str, team: Option<&str>) -> (u64, String) {
        let team = team.map(|team| HeaderValue::from_str(team).unwrap());
        let rule = limits.rule("GET", "/");
        let bucket =
            limits.bucket(rule, owner, address.parse().unwrap(), |_| team.as_ref(), &FixedState::default());
        (bucket.hash, bucket.name())
    }

    #[test]
    fn the_first_matching_override_applies() {
        let limits = limits(json!({"capacity": 100, "refillPerSecond": 10, "overrides": [
            {"match": {"path": "/burst", "method": "POST"}, "capacity": 10, "refillPerSecond": 1},
            {"match": {"path": "/*"}, "capacity": 50, "refillPerSecond": 1},
        ]}));
        assert_eq!(limits.rule("POST", "/burst").config.limit, Limit::new(10, 1.0));
        assert_eq!(limits.rule("GET", "/burst").config.limit, Limit::new(50, 1.0));
        assert_eq!(limits.rule("POST", "/burst").policy_header, "\"override-1\";q=10;w=10");
    }

    #[test]
    fn a_client_is_identified_by_its_owner_or_else_by_its_address() {
        let limits = limits(json!({"capacity": 1, "refillPerSecond": 1}));
        let owner = |tenant, subject| Some(Owner { tenant, subject });
        let alice = bucket(&limits, owner("acme", "alice"), "10.0.0.1", None);
        assert_eq!(alice, bucket(&limits, owner("acme", "alice"), "10.0.0.2", None));
        assert_ne!(alice, bucket(&limits, owner("acme", "bob"), "10.0.0.1", None));
        assert_ne!(alice, bucket(&limits, owner("other", "alice"), "10.0.0.1", None), "another tenant");
        assert_ne!(
            bucket(&limits, owner("ab", "c"), "10.0.0.1", None).1,
            bucket(&limits, owner("a", "bc"), "10.0.0.1", None).1
        );
        assert_ne!(bucket(&limits, None, "10.0.0.1", None), bucket(&limits, None, "10.0.0.2", None));
    }

    #[test]
    fn ipv6_addresses_of_one_64_bit_prefix_share_a_bucket() {
        let limits = limits(json!({"capacity": 1, "refillPerSecond": 1, "key": "Ip"}));
        let first = bucket(&limits, None, "2001:db8:0:1::1", None);
        assert_eq!(first, bucket(&limits, None, "2001:db8:0:1:ffff::2", None));
        assert_ne!(first, bucket(&limits, None, "2001:db8:0:2::1", None));
        assert_eq!(
            bucket(&limits, None, "10.0.0.1", None),
            bucket(&limits, None, "::ffff:10.0.0.1", None),
            "an IPv4-mapped IPv6 address is the same client"
        );
    }

    #[test]
    fn all_clients_share_the_global_bucket() {
        let limits = limits(json!({"capacity": 1, "refillPerSecond": 1, "key": "Global"}));
        assert_eq!(
            bucket(&limits, Some(Owner { tenant: "a", subject: "b" }), "10.0.0.1", None),
            bucket(&limits, None, "10.0.0.9", None)
        );
    }

    #[test]
    fn a_header_selects_the_bucket_and_without_it_the_address_does() {
        let limits =
            limits(json!({"capacity": 1, "refillPerSecond": 1, "key": "Header", "headerName": "x-team"}));
        let red = bucket(&limits, None, "10.0.0.1", Some("red"));
        assert_eq!(red, bucket(&limits, None, "10.0.0.2", Some("red")));
        assert_ne!(red, bucket(&limits, None, "10.0.0.1", Some("blue")));
        assert_ne!(bucket(&limits, None, "10.0.0.1", None), bucket(&limits, None, "10.0.0.2", None));
    }

    #[test]
    fn editing_figures_or_order_keeps_the_buckets() {
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
    fn a_shared_limit_is_whole_with_shared_state_and_divided_without() {
        let policy = json!({"capacity": 10, "refillPerSecond": 4, "onBackendFailure": "Deny", "overrides": [
            {"match": {"path": "/a"}, "capacity": 4, "refillPerSecond": 1},
        ]});
        let policy: policy::RateLimit = serde_json::from_value(policy).unwrap();
        let shared = Limits::new(&policy, 2, true).rule("GET", "/").config;
        assert_eq!(shared.limit, Limit::new(10, 4.0));
        let sharing = shared.sharing.unwrap();
        assert_eq!((sharing.replicas, sharing.share), (2, Limit::new(5, 2.0)));
        assert_eq!(sharing.on_failure, policy::BackendFailure::Deny);
        let divided = Limits::new(&policy, 2, false);
        assert_eq!(
            divided.rule("GET", "/").config,
            BucketConfig { limit: Limit::new(5, 2.0), sharing: None }
        );
        assert_eq!(divided.rule("GET", "/a").config.limit, Limit::new(2, 0.5));
        let per_replica = policy::RateLimit { scope: Scope::PerReplica, ..policy };
        let per_replica = Limits::new(&per_replica, 2, true).rule("GET", "/").config;
        assert_eq!(per_replica, BucketConfig { limit: Limit::new(10, 4.0), sharing: None });
    }
}
