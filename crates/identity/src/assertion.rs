//! Assertions: statements of a service about the principal of its request, signed with the token that all
//! services of the fleet share.
//!
//! ```text
//! 1;EXPIRY;ROLE;TENANT;SUBJECT;SIGNATURE
//! ```
//!
//! `1` is the version of the format. The expiry is in seconds since the Unix epoch. The signature is the
//! HMAC-SHA256 (RFC 2104) of all before its semicolon, in Base64 for URLs without padding (RFC 4648, section 5).
//! The characters of names and roles do not include the semicolon.

use std::{fmt, sync::Arc, time::Duration};

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderValue;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::{Name, Principal, Role, recent::Recent};

/// Time for which an assertion is valid after its last use by the sender, and therefore the largest difference
/// between the clocks of two machines of a fleet.
pub const ASSERTION_LIFETIME: Duration = Duration::from_mins(5);

/// Time for which an assertion is used again, in seconds.
const REUSE_SECONDS: i64 = 60;
/// Version of the format.
const VERSION: &str = "1";
/// Longest assertion, in bytes. A longer one is not hashed.
const MAX_LENGTH: usize = 256;

/// Secret that the services of a fleet share. `Debug` does not show it.
#[derive(Clone)]
pub struct InternalToken {
    /// HMAC whose key is the token.
    mac: Hmac<Sha256>,
    /// Hash of the token, for values that are derived from it.
    digest: [u8; 32],
    recent: Arc<RecentAssertions>,
}

/// Assertions that were signed or verified recently.
#[derive(Default)]
struct RecentAssertions {
    /// Each with the time at which it was signed, in seconds.
    signed: Recent<Principal, (HeaderValue, i64)>,
    /// Each with its expiry, in seconds.
    verified: Recent<Box<[u8]>, (Principal, i64)>,
}

impl InternalToken {
    /// Shortest accepted token, in characters.
    pub const MIN_LENGTH: usize = 16;

    /// Creates a random token.
    pub fn random() -> Self {
        Self::from_secret(
            format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()).as_bytes(),
        )
    }

    /// Creates a token from configuration; `None` if it is shorter than 16 characters, or has others than visible
    /// ASCII characters.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_valid = text.len() >= Self::MIN_LENGTH && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_valid.then(|| Self::from_secret(text.as_bytes()))
    }

    fn from_secret(secret: &[u8]) -> Self {
        let mac = Hmac::new_from_slice(secret).expect("HMAC accepts keys of every length");
        Self { mac, digest: Sha256::digest(secret).into(), recent: Arc::default() }
    }

    /// Returns a number that services with this token have in common, and from which it cannot be found.
    pub fn derive(&self, purpose: &str) -> u64 {
        let digest = Sha256::new_with_prefix(purpose).chain_update(self.digest).finalize();
        u64::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
    }

    /// Signs a principal, or returns an assertion of the last minute. The value is marked as sensitive: it is a
    /// credential until it expires.
    pub fn sign(&self, principal: &Principal, now: Timestamp) -> HeaderValue {
        let second = now.as_second();
        if let Some((assertion, signed)) = self.recent.signed.get(principal)
            && (signed..signed + REUSE_SECONDS).contains(&second)
        {
            return assertion;
        }
        let assertion = self.sign_anew(principal, now);
        self.recent.signed.insert(principal.clone(), (assertion.clone(), second));
        assertion
    }

    fn sign_anew(&self, principal: &Principal, now: Timestamp) -> HeaderValue {
        let Principal { tenant, subject, role } = principal;
        let expiry = now.as_second().saturating_add(REUSE_SECONDS + ASSERTION_LIFETIME.as_secs() as i64);
        let mut text = format!("{VERSION};{expiry};{role};{tenant};{subject}");
        let signature = self.mac.clone().chain_update(text.as_bytes()).finalize().into_bytes();
        text.push(';');
        BASE64URL_NOPAD.encode_append(&signature, &mut text);
        let mut value = HeaderValue::try_from(text).expect("an assertion is visible ASCII");
        value.set_sensitive(true);
        value
    }

    /// Returns the principal of an assertion that is signed with this token and valid at `now`.
    pub fn verify(&self, assertion: &HeaderValue, now: Timestamp) -> Option<Principal> {
        let (principal, expiry) = match self.recent.verified.get(assertion.as_bytes()) {
            Some(known) => known,
            None => {
                let verified = self.verify_anew(assertion)?;
                self.recent.verified.insert(assertion.as_bytes().into(), verified.clone());
                verified
            }
        };
        // An expiry in the far future would come from a clock that is too fast.
        let remaining = expiry.checked_sub(now.as_second())?;
        (0..=REUSE_SECONDS + 2 * ASSERTION_LIFETIME.as_secs() as i64)
            .contains(&remaining)
            .then_some(principal)
    }

    /// Checks the signature. Returns the principal and the expiry.
    fn verify_anew(&self, assertion: &HeaderValue) -> Option<(Principal, i64)> {
        let text = assertion.to_str().ok().filter(|text| text.len() <= MAX_LENGTH)?;
        let (signed, signature) = text.rsplit_once(';')?;
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?;
        // Compares in constant time.
        self.mac.clone().chain_update(signed.as_bytes()).verify_slice(&signature).ok()?;
        let mut fields = signed.split(';');
        let is_current = fields.next()? == VERSION;
        let expiry: i64 = fields.next()?.parse().ok()?;
        let role: Role = fields.next()?.parse().ok()?;
        let tenant: Name = fields.next()?.parse().ok()?;
        let subject: Name = fields.next()?.parse().ok()?;
        let is_complete = fields.next().is_none();
        (is_current && is_complete).then_some((Principal { tenant, subject, role }, expiry))
    }
}

impl fmt::Debug for InternalToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InternalToken(...)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn principal(tenant: &str, subject: &str, role: Role) -> Principal {
        Principal { tenant: tenant.parse().unwrap(), subject: subject.parse().unwrap(), role }
    }

    #[test]
    fn an_assertion_is_valid_on_clocks_that_differ_by_five_minutes() {
        let token = InternalToken::random();
        let ada = principal("acme", "ada@example.org", Role::Member);
        let assertion = token.sign(&ada, at(10_000));
        assert_eq!(token.sign(&ada, at(10_059)), assertion, "used again for a minute");
        assert_ne!(token.sign(&ada, at(10_060)), assertion);
        // Sent up to 10,059.
        for valid in [9_700, 10_000, 10_359] {
            assert_eq!(token.verify(&assertion, at(valid)).as_ref(), Some(&ada), "at {valid}");
        }
        for invalid in [0, 9_699, 10_361, 1_000_000] {
            assert_eq!(token.verify(&assertion, at(invalid)), None, "at {invalid}");
        }
    }

    #[test]
    fn only_the_token_that_signed_an_assertion_accepts_it() {
        let assertion = InternalToken::random().sign(&Principal::anonymous(), at(0));
        assert_eq!(InternalToken::random().verify(&assertion, at(0)), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let token = InternalToken::new("0123456789abcdef0123").unwrap();
        assert!(!format!("{token:?}").contains("0123456789"));
        assert!(!format!("{:?}", token.sign(&Principal::anonymous(), at(0))).contains("anonymous"));
        for invalid in ["short", "sixteen letters and spaces", "sixteen-letters-\u{e9}"] {
            assert!(InternalToken::new(invalid).is_none(), "{invalid}");
        }
    }

    proptest! {
        #[test]
        fn an_assertion_with_any_other_byte_is_refused(position in 0_usize..120, byte in 32_u8..127) {
            let token = InternalToken::new("a token of a test".replace(' ', "-").as_str()).unwrap();
            let assertion = token.sign(&principal("acme", "ada", Role::Reader), at(10_000));
            let mut bytes = assertion.as_bytes().to_vec();
            prop_assume!(position < bytes.len() && bytes[position] != byte);
            bytes[position] = byte;
            let altered = HeaderValue::from_bytes(&bytes).unwrap();
            prop_assert_eq!(token.verify(&altered, at(10_000)), None);
        }

        #[test]
        fn any_text_is_refused(text in "[ -~]{0,300}") {
            let value = HeaderValue::try_from(text).unwrap();
            prop_assert_eq!(InternalToken::random().verify(&value, at(0)), None);
        }
    }
}
