//! API keys and their hashes.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

/// Number of digits of the hash in an ID.
const ID_DIGITS: usize = 16;

/// An API key: a secret of 128 random bits. `Debug` does not show it.
pub struct ApiKey(String);

impl ApiKey {
    /// Creates a random key.
    pub fn random() -> Self {
        Self(format!("p6_{:032x}", rand::random::<u128>()))
    }

    /// Returns the secret, for its holder.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Returns the hash.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(...)")
    }
}

/// SHA-256 of an API key. A fast hash is enough: keys have 128 random bits and cannot be guessed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Prefix of the textual form.
    const PREFIX: &str = "sha256:";

    /// Hashes a key.
    pub fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Returns the ID of the key.
    pub fn id(&self) -> KeyId {
        KeyId(format!("key_{}", &HEXLOWER.encode(&self.0)[..ID_DIGITS]))
    }
}

/// `sha256:` and 64 hexadecimal digits.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let digits = text.strip_prefix(Self::PREFIX).ok_or("the hash does not begin with sha256:")?;
        let bytes = HEXLOWER.decode(digits.to_ascii_lowercase().as_bytes());
        let bytes = bytes.map_err(|_| "the hash is not hexadecimal")?;
        bytes.try_into().map(Self).map_err(|_| "the hash does not have 64 digits")
    }
}

/// ID of a key: `key_` and the first 16 digits of its hash. Not a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// Returns the ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for KeyId {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
