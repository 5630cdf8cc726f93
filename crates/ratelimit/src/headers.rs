//! What an answer says about the limit: `RateLimit` and `RateLimit-Policy`
//! (draft-ietf-httpapi-ratelimit-headers), the older `X-RateLimit-*` and `Retry-After`.
//!
//! Times are whole seconds, rounded up: who waits so long is admitted.

use std::{fmt::Write, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use crate::{gcra::Decision, limits::Rule};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Whole seconds, rounded up.
pub(crate) fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

pub(crate) fn write(rule: &Rule, decision: &Decision, headers: &mut HeaderMap) {
    let (remaining, reset) = match decision {
        Decision::Admit { remaining, full_in } => (*remaining, Some(seconds(*full_in))),
        Decision::Refuse { retry_after } => (0, retry_after.map(seconds)),
    };
    let mut text = String::with_capacity(32);
    let _ = write!(text, "\"{}\";r={remaining}", rule.name);
    if let Some(reset) = reset {
        let _ = write!(text, ";t={reset}");
    }
    headers.insert(RATELIMIT_POLICY, rule.policy_header.clone());
    headers.insert(RATELIMIT, HeaderValue::from_str(&text).expect("digits and a plain name"));
    headers.insert(X_RATELIMIT_LIMIT, rule.capacity_header.clone());
    headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from(remaining));
    if let Some(reset) = reset {
        headers.insert(X_RATELIMIT_RESET, HeaderValue::from(reset));
        if !decision.is_admitted() {
            headers.insert(RETRY_AFTER, HeaderValue::from(reset.max(1)));
        }
    }
}
