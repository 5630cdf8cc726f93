//! Response headers that describe the limit.
//!
//! Every response carries `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers). A
//! refusal also carries the headers that older clients read: `Retry-After` and the three `X-RateLimit-*`.
//!
//! Times are whole seconds, rounded up, so a client that waits for the stated time is admitted.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use crate::{gcra::Decision, limits::Rule};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Returns the duration in whole seconds, rounded up.
pub(crate) fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Writes the headers that describe a decision under a rule.
pub(crate) fn write(rule: &Rule, decision: &Decision, headers: &mut HeaderMap) {
    let (remaining, reset) = match decision {
        Decision::Admit { remaining, full_in } => (*remaining, Some(seconds(*full_in))),
        Decision::Refuse { retry_after } => (0, retry_after.map(seconds)),
    };
    headers.insert(RATELIMIT_POLICY, rule.policy_header.clone());
    headers.insert(RATELIMIT, ratelimit(&rule.name, remaining, reset));
    if decision.is_admitted() {
        return;
    }
    headers.insert(X_RATELIMIT_LIMIT, rule.capacity_header.clone());
    headers.insert(X_RATELIMIT_REMAINING, HeaderValue::from(remaining));
    if let Some(reset) = reset {
        headers.insert(X_RATELIMIT_RESET, HeaderValue::from(reset));
        headers.insert(RETRY_AFTER, HeaderValue::from(reset.max(1)));
    }
}

/// Formats `"name";r=remaining;t=reset`. Runs for every request, so it avoids the cost of `format!`.
fn ratelimit(name: &str, remaining: u64, reset: Option<u64>) -> HeaderValue {
    let mut digits = itoa::Buffer::new();
    let mut text = String::with_capacity(name.len() + 48);
    text.push('"');
    text.push_str(name);
    text.push_str("\";r=");
    text.push_str(digits.format(remaining));
    if let Some(reset) = reset {
        text.push_str(";t=");
        text.push_str(digits.format(reset));
    }
    HeaderValue::from_str(&text).expect("digits and a name of visible ASCII")
}
