//! Key files: one line per key, with its principal and its hash.
//!
//! ```text
//! # a comment
//! default ada admin sha256:64-HEX-DIGITS
//! ```
//!
//! A line of an earlier version has an owner instead of a principal. It is still read, so that one file serves
//! programs of both versions: `admin` is an admin of the default tenant, and any other owner a member of a tenant
//! of its own name.

use std::fmt::Write;

use crate::{Digest, KeyId, Principal};

/// Largest number of keys in a file.
const MAX_KEYS: usize = 10_000;

/// Keys of a file. Editing preserves the other lines.
#[derive(Clone, Debug, Default)]
pub struct KeyFile {
    text: String,
    keys: Vec<(Digest, Principal)>,
}

/// An invalid line of a key file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}; accepted: TENANT NAME ROLE sha256:64-HEX-DIGITS")]
pub struct InvalidKeyLine {
    /// Line number, from 1.
    pub line: usize,
    /// Reason why the line is invalid.
    pub problem: String,
}

impl KeyFile {
    /// Parses the text of a file.
    ///
    /// # Errors
    ///
    /// The first invalid line.
    pub fn parse(text: &str) -> Result<Self, InvalidKeyLine> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let fault = |problem: String| InvalidKeyLine { line: index + 1, problem };
            let Some(key) = parse_line(line).map_err(fault)? else { continue };
            if keys.len() == MAX_KEYS {
                return Err(fault(format!("the file has more than {MAX_KEYS} keys")));
            }
            keys.push(key);
        }
        Ok(Self { text: text.to_owned(), keys })
    }

    /// Returns the line of a key.
    pub fn line(principal: &Principal, digest: Digest) -> String {
        let Principal { tenant, subject, role } = principal;
        format!("{tenant} {subject} {role} {digest}")
    }

    /// Returns the text of the file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the keys, in the order of their lines.
    pub fn keys(&self) -> &[(Digest, Principal)] {
        &self.keys
    }

    /// Appends a key.
    pub fn add(&mut self, principal: Principal, digest: Digest) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        writeln!(self.text, "{}", Self::line(&principal, digest)).expect("a string can be written");
        self.keys.push((digest, principal));
    }

    /// Removes a key. Returns false if the file does not have it.
    pub fn remove(&mut self, id: &KeyId) -> bool {
        let is_other = |line: &&str| !matches!(parse_line(line), Ok(Some((digest, _))) if digest.id() == *id);
        let before = self.keys.len();
        self.keys.retain(|(digest, _)| digest.id() != *id);
        self.text = self.text.split_inclusive('\n').filter(is_other).collect();
        self.keys.len() < before
    }
}

/// Parses a line; `None` if it has only a comment.
fn parse_line(line: &str) -> Result<Option<(Digest, Principal)>, String> {
    let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
    let (tenant, subject, role, digest) = match words[..] {
        [] => return Ok(None),
        [tenant, subject, role, digest] => (tenant, subject, role, digest),
        ["admin", digest] => ("default", "admin", "admin", digest),
        [owner, digest] => (owner, owner, "member", digest),
        ref words => return Err(format!("{} words instead of 4", words.len())),
    };
    let principal = Principal {
        tenant: tenant.parse().map_err(|error| format!("tenant {error}"))?,
        subject: subject.parse().map_err(|error| format!("name {error}"))?,
        role: role.parse().map_err(|error| format!("role {error}"))?,
    };
    if principal.is_anonymous() {
        return Err("the name anonymous is reserved for callers without credentials".to_owned());
    }
    Ok(Some((digest.parse().map_err(str::to_owned)?, principal)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Role;

    fn ada() -> Principal {
        Principal { tenant: "acme".parse().unwrap(), subject: "ada".parse().unwrap(), role: Role::Admin }
    }

    #[test]
    fn an_invalid_line_is_reported_with_its_number_and_what_is_accepted() {
        let error = |text: &str| KeyFile::parse(text).unwrap_err().to_string();
        let hash = Digest::of(b"key");
        assert_eq!(
            error("\nalice"),
            "line 2: 1 words instead of 4; accepted: TENANT NAME ROLE sha256:64-HEX-DIGITS"
        );
        assert!(error(&format!("a/b ada admin {hash}")).starts_with("line 1: tenant \"a/b\" is not a name"));
        assert!(error(&format!("acme ada owner {hash}")).starts_with("line 1: role \"owner\" is not a role"));
        assert!(error(&format!("acme anonymous admin {hash}")).contains("anonymous is reserved"));
        assert!(error("acme ada admin md5:00").contains("does not begin with sha256:"));
        assert!(error("acme ada admin sha256:00").contains("64 digits"));
        assert!(error(&format!("acme ada admin sha256:{}", "zz".repeat(32))).contains("not hexadecimal"));
    }

    #[test]
    fn lines_of_an_earlier_version_are_read() {
        let (first, second) = (Digest::of(b"first"), Digest::of(b"second"));
        let file = KeyFile::parse(&format!("admin {first}\nada {second}")).unwrap();
        let lines: Vec<String> =
            file.keys().iter().map(|(digest, principal)| KeyFile::line(principal, *digest)).collect();
        assert_eq!(lines, [format!("default admin admin {first}"), format!("ada ada member {second}")]);
    }

    #[test]
    fn editing_preserves_comments_and_other_lines() {
        let mut file = KeyFile::parse("# the team\n\n").unwrap();
        let (first, second) = (Digest::of(b"first"), Digest::of(b"second"));
        file.add(ada(), first);
        file.add(ada(), second);
        assert_eq!(KeyFile::parse(file.text()).unwrap().keys(), file.keys());
        assert!(file.remove(&first.id()));
        assert!(!file.remove(&first.id()));
        assert_eq!(file.text(), format!("# the team\n\nacme ada admin {second}\n"));
        assert_eq!(file.keys(), [(second, ada())]);
    }

    #[test]
    fn a_file_without_a_final_line_break_can_be_extended() {
        let mut file = KeyFile::parse("# no line break").unwrap();
        file.add(ada(), Digest::of(b"key"));
        assert_eq!(KeyFile::parse(file.text()).unwrap().keys().len(), 1);
    }
}
