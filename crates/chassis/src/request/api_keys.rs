//! API keys: only their hashes are known, each with its owner.

use std::{fmt, str::FromStr, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Hashes of the accepted API keys and their owners.
#[derive(Clone, Default)]
pub struct ApiKeys {
    keys: Vec<HashedKey>,
}

#[derive(Clone)]
struct HashedKey {
    sha256: [u8; 32],
    owner: Arc<str>,
}

/// An invalid line of a key file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}; accepted: OWNER sha256:64-HEX-DIGITS")]
pub struct InvalidKeyLine {
    /// Line number, from 1.
    pub line: usize,
    /// Reason why the line is invalid.
    pub problem: &'static str,
}

impl ApiKeys {
    /// True if no key is accepted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the line of a key file for a key.
    pub fn line(owner: &str, key: &str) -> String {
        let digest = Sha256::digest(key.as_bytes());
        let digits: String = digest
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(|digit| char::from_digit(u32::from(digit), 16).expect("four bits are a hexadecimal digit"))
            .collect();
        format!("{owner} sha256:{digits}")
    }

    /// Returns the owner of a key. Compares every hash, each in constant time.
    pub(super) fn owner(&self, key: &[u8]) -> Option<&Arc<str>> {
        let digest = Sha256::digest(key);
        self.keys.iter().fold(None, |found, key| {
            if bool::from(key.sha256.ct_eq(&digest[..])) { Some(&key.owner) } else { found }
        })
    }
}

impl FromStr for ApiKeys {
    type Err = InvalidKeyLine;

    /// Parses a key file: each line has an owner and the SHA-256 of a key; `#` begins a comment.
    fn from_str(text: &str) -> Result<Self, InvalidKeyLine> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            keys.push(parse_line(line).map_err(|problem| InvalidKeyLine { line: index + 1, problem })?);
        }
        Ok(Self { keys })
    }
}

fn parse_line(line: &str) -> Result<HashedKey, &'static str> {
    let (owner, hash) = line.split_once(char::is_whitespace).ok_or("there is only one word")?;
    let digits = hash.trim().strip_prefix("sha256:").ok_or("the hash does not begin with sha256:")?;
    if digits.len() != 64 || !digits.is_ascii() {
        return Err("the hash does not have 64 digits");
    }
    let mut sha256 = [0; 32];
    for (index, byte) in sha256.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16)
            .map_err(|_| "the hash is not hexadecimal")?;
    }
    Ok(HashedKey { sha256, owner: owner.into() })
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_key_file_is_reported_by_line() {
        let error = |text: &str| text.parse::<ApiKeys>().unwrap_err().to_string();
        assert_eq!(error("\nalice"), "line 2: there is only one word; accepted: OWNER sha256:64-HEX-DIGITS");
        assert!(error("alice md5:00").starts_with("line 1: the hash does not begin with sha256:"));
        assert!(error("alice sha256:00").contains("64 digits"));
        assert!(error(&format!("alice sha256:{}", "zz".repeat(32))).contains("not hexadecimal"));
    }
}
