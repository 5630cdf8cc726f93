//! Keys as clients send them, and what a key belongs to.

use std::fmt;

use data_encoding::HEXLOWER;
use phase6_identity::Principal;
use sha2::{Digest, Sha256};

/// Longest key, in characters.
const MAX_LENGTH: usize = 255;

/// Key by which a client marks repetitions of one request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

/// A header that has no valid key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the header `Idempotency-Key` is not valid; accepted: 1 to 255 visible ASCII characters in double quotes, such \
     as \"8e03978e-40d5-43dd-bc93-6894a57f9324\""
)]
pub struct InvalidKey;

impl IdempotencyKey {
    /// Parses the value of the header: a string (RFC 9651, section 3.3.3). The quotes may be missing, as in the
    /// requests of many clients; the key is the same then.
    ///
    /// # Errors
    ///
    /// The value is not a string, or the key is empty or longer than 255 characters.
    pub fn parse(value: &str) -> Result<Self, InvalidKey> {
        let value = value.trim_matches([' ', '\t']);
        let key = match value.strip_prefix('"') {
            Some(rest) => unquote(rest).ok_or(InvalidKey)?,
            // A bare key with a quote or a backslash would be ambiguous.
            None if value.contains(['"', '\\', ' ', ',', ';']) => return Err(InvalidKey),
            None => value.to_owned(),
        };
        let is_valid =
            (1..=MAX_LENGTH).contains(&key.len()) && key.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if is_valid { Ok(Self(key)) } else { Err(InvalidKey) }
    }

    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the content of a string whose opening quote has been removed.
fn unquote(rest: &str) -> Option<String> {
    let mut key = String::with_capacity(rest.len());
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => return characters.as_str().is_empty().then_some(key),
            '\\' => key.push(characters.next().filter(|c| ['"', '\\'].contains(c))?),
            other => key.push(other),
        }
    }
}

/// SHA-256 of a request's target and body, by which another request with the same key is recognized.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Computes the fingerprint of a request by its path with the query, and its body.
    pub fn of(target: &str, body: &[u8]) -> Self {
        // Targets contain no zero byte.
        let digest = Sha256::new().chain_update(target).chain_update([0]).chain_update(body).finalize();
        Self(digest.into())
    }

    pub(crate) fn to_text(self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.to_text())
    }
}

/// A request with an idempotency key. Keys of two principals, or of two routes, are two keys.
#[derive(Clone, Debug)]
pub struct Request {
    /// Principal on whose behalf the request is sent.
    pub principal: Principal,
    /// Method and path of the operation, such as `POST /api/v1/budget/record-workflow`.
    pub route: String,
    /// Key that the client has chosen.
    pub key: IdempotencyKey,
    /// Fingerprint of the body.
    pub fingerprint: Fingerprint,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(value: &str) -> Option<String> {
        IdempotencyKey::parse(value).ok().map(|key| key.as_str().to_owned())
    }

    #[test]
    fn a_key_is_a_string_with_or_without_quotes() {
        assert_eq!(parse("\"a-b\"").as_deref(), Some("a-b"));
        assert_eq!(parse(" a-b ").as_deref(), Some("a-b"));
        assert_eq!(parse(r#""a \"b\" \\ c""#).as_deref(), Some(r#"a "b" \ c"#));
        for invalid in
            ["", "\"\"", "\"a", "a\"", "\"a\"b", "\"a\\b\"", "\"a\", \"b\"", "a b", "a,b", "\"a\u{e9}\""]
        {
            assert_eq!(parse(invalid), None, "{invalid}");
        }
        assert!(parse(&"a".repeat(255)).is_some() && parse(&"a".repeat(256)).is_none());
    }

    proptest! {
        #[test]
        fn every_key_survives_quoting(key in "[ -~]{1,255}") {
            let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(parse(&quoted), Some(key));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,300}") {
            let _ = parse(&text);
        }
    }
}
