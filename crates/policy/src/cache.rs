//! Response cache settings: freshness lifetime, stale responses and size.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{Duration, duration_rule};

/// Response cache of a service. RFC 9111 and the `Cache-Control` header of a response determine if the
/// response may be stored; these settings determine for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// Time that a stored response stays fresh, from 0s to 24h. A shorter lifetime in the response itself
    /// takes precedence. A lower value takes effect at once, also for stored responses; 0s makes every stored
    /// response stale.
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("0s" to "24h")))]
    pub ttl: Duration,

    /// Time after a response became stale during which it is still served at once while one request fetches a
    /// new response, from 0s to 24h. A shorter `stale-while-revalidate` in the response takes precedence.
    /// Default 0s: never.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("0s" to "24h")))]
    pub stale_while_revalidate: Duration,

    /// Time after a response became stale during which it is served if the handler fails or times out, from
    /// 0s to 24h. A shorter `stale-if-error` in the response takes precedence. Default 0s: never.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-validations" = duration_rule!("0s" to "24h")))]
    pub stale_if_error: Duration,

    /// Approximate number of responses in the memory of one replica, from 1 to 1000000. Default 10000. A
    /// response larger than 8 KiB counts as several. A full cache evicts the least useful responses first.
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
    fn only_the_ttl_is_required() {
        let cache: Cache = serde_json::from_str(r#"{"ttl": "5s"}"#).unwrap();
        assert_eq!((cache.ttl, cache.max_entries), (Duration::from_secs(5), 10_000));
        assert!(cache.stale_while_revalidate.is_zero() && cache.stale_if_error.is_zero());
    }
}
