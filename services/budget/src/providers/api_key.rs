//! API keys that are never shown.

use std::fmt;

use http::HeaderValue;

/// API key of a provider. Its `Debug` form hides the key.
#[derive(Clone)]
pub struct ApiKey(HeaderValue);

/// An API key that cannot be sent in a header. The error does not show the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has characters that a header cannot carry; accepted: visible ASCII characters")]
pub struct InvalidApiKey;

impl ApiKey {
    /// Parses a key; surrounding white space is ignored.
    ///
    /// # Errors
    ///
    /// The key cannot be sent in a header.
    pub fn parse(key: &str) -> Result<Self, InvalidApiKey> {
        HeaderValue::from_str(key.trim()).map(Self::sensitive).map_err(|_| InvalidApiKey)
    }

    /// Header value of the key alone.
    pub(super) fn plain(&self) -> HeaderValue {
        self.0.clone()
    }

    /// Header value of the key as a bearer token.
    pub(super) fn bearer(&self) -> HeaderValue {
        let value = [b"Bearer ", self.0.as_bytes()].concat();
        let value = HeaderValue::from_bytes(&value).expect("an ASCII prefix leaves a header value valid");
        Self::sensitive(value).0
    }

    fn sensitive(mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self(value)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(...)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::parse(" sk-secret ").unwrap();
        assert!(!format!("{key:?} {:?} {:?}", key.plain(), key.bearer()).contains("secret"));
        assert_eq!(
            (key.plain(), key.bearer()),
            ("sk-secret".parse().unwrap(), "Bearer sk-secret".parse().unwrap())
        );
    }

    #[test]
    fn rejects_a_key_that_a_header_cannot_carry() {
        assert_eq!(ApiKey::parse("line\nbreak").unwrap_err(), InvalidApiKey);
    }
}
