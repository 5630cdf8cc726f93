//! How long answers may be reused, and when old ones may stand in for new ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{Duration, duration_rule};

/// Response cache of a service. Which answers may be stored at all is decided by RFC 9111 and by
/// what the service says about each answer; this section says for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// How long a stored answer counts as fresh, from 0s to 24h. An answer that states a shorter
    /// life keeps it. Lowering the value acts at once, also on answers already stored; 0s makes
    /// every stored answer stale.
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("0s" to "24h")))]
    pub ttl: Duration,

    /// For how long after `ttl` an old answer is still served at once while one request fetches a
    /// new one, from 0s to 24h. Default 0s: never.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("0s" to "24h")))]
    pub stale_while_revalidate: Duration,

    /// For how long after `ttl` an old answer is served when a new one cannot be had (an error or
    /// a time-out of the handler), from 0s to 24h. Default 0s: never.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("0s" to "24h")))]
    pub stale_if_error: Duration,

    /// About how many answers are kept in the memory of one replica, from 1 to 1000000. Default
    /// 10000. An answer of more than 8 KiB counts as several; the least useful ones leave first.
    #[serde(default = "default_max_entries")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_entries: i64,
}

const fn default_max_entries() -> i64 {
    10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_enough_of_a_section() {
        let cache: Cache = serde_json::from_str(r#"{"ttl": "5s"}"#).unwrap();
        assert_eq!((cache.ttl, cache.max_entries), (Duration::from_secs(5), 10_000));
        assert!(cache.stale_while_revalidate.is_zero() && cache.stale_if_error.is_zero());
    }
}
