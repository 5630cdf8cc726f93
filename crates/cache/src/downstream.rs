//! What an answer says to the caches in front of the service: a CDN, and the client's own.
//!
//! * None of them keeps it for longer than the policy in force would; `Age` counts from when its making began.
//! * What is told to a caller with credentials is `private`: a cache in front does not know whose key is whose.
//! * Where the handler leaves its life to the policy, a shared cache may keep it, which can be told to forget
//!   (`Surrogate-Key`), and a client's own asks again.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header::CACHE_CONTROL};

use crate::{Entry, Terms, rfc9111::split};

/// `Cache-Control` of an answer that may be stored, as it goes out under these terms.
pub(crate) fn control(entry: &Entry, private: bool, terms: &Terms) -> HeaderValue {
    let storable = &entry.storable;
    let longest = terms.life(storable.lifetime, entry.is_negative());
    let own = storable.max_age.unwrap_or_default().min(longest);
    // On the path of every hit, so without `format!`.
    let mut text = String::with_capacity(96);
    if private {
        text.push_str("private, ");
    } else if storable.public {
        text.push_str("public, ");
    }
    let mut push = |name: &str, time: Duration| {
        text.push_str(name);
        text.push_str(itoa::Buffer::new().format(time.as_secs()));
    };
    push("max-age=", own);
    if !private && own.as_secs() != longest.as_secs() {
        push(", s-maxage=", longest);
    }
    for (name, stated, granted) in [
        (", stale-while-revalidate=", storable.stale_while_revalidate, terms.stale_while_revalidate),
        (", stale-if-error=", storable.stale_if_error, terms.stale_if_error),
    ] {
        if let Some(stated) = stated {
            push(name, stated.min(granted));
        }
    }
    if storable.must_revalidate {
        text.push_str(", must-revalidate");
    }
    HeaderValue::try_from(text).expect("letters and digits")
}

/// Makes an answer that was not stored one for its caller alone, in the eyes of a cache in front.
pub(crate) fn keep_private(headers: &mut HeaderMap) {
    let mut text = "private".to_owned();
    for line in headers.get_all(CACHE_CONTROL).iter().filter_map(|line| line.to_str().ok()) {
        for directive in split(line).map(str::trim) {
            let name = directive.split('=').next().unwrap_or_default().trim();
            // Also what is private in part only.
            let replaced =
                ["", "public", "private", "s-maxage"].iter().any(|it| name.eq_ignore_ascii_case(it));
            if !replaced {
                text.push_str(", ");
                text.push_str(directive);
            }
        }
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(CACHE_CONTROL, value);
    }
}
