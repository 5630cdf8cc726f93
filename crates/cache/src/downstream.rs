//! `Cache-Control` for the caches downstream of the service: a CDN and the client's own cache.
//!
//! * No downstream cache may use a response for longer than the policy in force allows; `Age` counts from the
//!   start of the fetch.
//! * A response to a client with credentials is `private`: a shared cache downstream cannot tell tenants
//!   apart.
//! * If the handler leaves the lifetime to the policy, a shared cache may store the response, because it can
//!   be purged by `Surrogate-Key`; the client's own cache has to revalidate it.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header::CACHE_CONTROL};

use crate::{CachePolicy, Entry, rfc9111::split_list};

/// Returns the `Cache-Control` of a storable response under a policy.
pub(crate) fn cache_control(entry: &Entry, private: bool, policy: &CachePolicy) -> HeaderValue {
    let directives = &entry.directives;
    let shared_max_age = policy.lifetime(directives.lifetime, entry.is_negative());
    let max_age = directives.max_age.unwrap_or_default().min(shared_max_age);
    // `format!` would be measurable here: this runs on every hit.
    let mut text = String::with_capacity(96);
    if private {
        text.push_str("private, ");
    } else if directives.public {
        text.push_str("public, ");
    }
    let mut push = |name: &str, time: Duration| {
        text.push_str(name);
        text.push_str(itoa::Buffer::new().format(time.as_secs()));
    };
    push("max-age=", max_age);
    if !private && max_age.as_secs() != shared_max_age.as_secs() {
        push(", s-maxage=", shared_max_age);
    }
    for (name, stated, granted) in [
        (", stale-while-revalidate=", directives.stale_while_revalidate, policy.stale_while_revalidate),
        (", stale-if-error=", directives.stale_if_error, policy.stale_if_error),
    ] {
        if let Some(stated) = stated {
            push(name, stated.min(granted));
        }
    }
    if directives.must_revalidate {
        text.push_str(", must-revalidate");
    }
    HeaderValue::try_from(text).expect("directives are letters and digits")
}

/// Makes the `Cache-Control` of a response that was not stored `private`, and keeps its other directives.
pub(crate) fn make_private(headers: &mut HeaderMap) {
    let mut text = "private".to_owned();
    for line in headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok()) {
        for directive in split_list(line).map(str::trim) {
            let name = directive.split('=').next().unwrap_or_default().trim();
            // `private="field"` covers single fields only, so it is replaced too.
            let is_replaced =
                ["", "public", "private", "s-maxage"].iter().any(|it| name.eq_ignore_ascii_case(it));
            if !is_replaced {
                text.push_str(", ");
                text.push_str(directive);
            }
        }
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(CACHE_CONTROL, value);
    }
}
