//! Principals: on whose behalf a request is sent, and what the role permits.

use std::{fmt, str::FromStr, sync::Arc};

use axum::{extract::FromRequestParts, response::IntoResponse};
use http::{StatusCode, request::Parts};

/// Longest name of a tenant or a subject, in characters.
const MAX_NAME_LENGTH: usize = 64;
/// Subject of callers without credentials, where none are required.
const ANONYMOUS: &str = "anonymous";
/// Tenant of a fleet that has only one, and of those who operate the fleet.
const DEFAULT_TENANT: &str = "default";

/// Name of a tenant or of a subject: 1 to 64 letters, digits, dashes, dots, underscores or `@`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// A text that is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a name; accepted: {}", Name::ACCEPTED)]
pub struct InvalidName {
    /// The text, shortened to 80 characters.
    pub text: String,
}

impl Name {
    /// Accepted names, for error messages.
    pub const ACCEPTED: &str = "1 to 64 letters, digits, dashes, dots, underscores or @";

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
        if (1..=MAX_NAME_LENGTH).contains(&text.len()) && text.bytes().all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName { text: text.chars().take(80).collect() })
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Permissions of a principal. Each role has those of the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads.
    Reader,
    /// Reads and writes on its own behalf.
    Member,
    /// Acts for every subject of the tenant: a program, or another service of the fleet.
    Service,
    /// Manages keys and settings of the tenant.
    Admin,
}

/// A text that is not a [`Role`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a role; accepted: admin, service, member, reader")]
pub struct InvalidRole {
    /// The text, shortened to 80 characters.
    pub text: String,
}

impl Role {
    /// All roles, the one with most permissions first.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Service, Self::Member, Self::Reader];

    /// Returns the name of the role.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Member => "member",
            Self::Service => "service",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or_else(|| InvalidRole { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// On whose behalf a request is sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Tenant whose data the request may touch.
    pub tenant: Name,
    /// Person or program within the tenant.
    pub subject: Name,
    /// Permissions.
    pub role: Role,
}

impl Principal {
    /// Creates the principal of callers without credentials, where none are required: an admin of the default
    /// tenant.
    pub fn anonymous() -> Self {
        Self { tenant: Self::default_tenant(), subject: Name(ANONYMOUS.into()), role: Role::Admin }
    }

    /// Creates the principal of a service that acts for nobody else.
    ///
    /// # Panics
    ///
    /// `name` is not a [`Name`]. Names of services are constants of the catalog.
    pub fn service(name: &str) -> Self {
        let subject = name.parse().expect("the name of a service is a name");
        Self { tenant: Self::default_tenant(), subject, role: Role::Service }
    }

    /// Returns the tenant of a fleet that has only one, and of those who operate the fleet.
    pub fn default_tenant() -> Name {
        Name(DEFAULT_TENANT.into())
    }

    /// True for [`Principal::anonymous`]. Such callers are told apart by their addresses.
    pub fn is_anonymous(&self) -> bool {
        self.subject.as_str() == ANONYMOUS
    }

    /// True for the default tenant, whose admins manage what all tenants share.
    pub fn is_in_default_tenant(&self) -> bool {
        self.tenant.as_str() == DEFAULT_TENANT
    }
}

/// The principal of the request that a handler is called for.
impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = MissingPrincipal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingPrincipal> {
        parts.extensions.get::<Self>().cloned().ok_or(MissingPrincipal)
    }
}

/// A handler asks for a principal on a path that needs none: a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request has no principal")]
pub struct MissingPrincipal;

impl IntoResponse for MissingPrincipal {
    fn into_response(self) -> axum::response::Response {
        tracing::error!(error = %self, "request failed");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_64_plain_characters() {
        for valid in ["a", "ada@example.org", "team-1_b.c", &"a".repeat(64)] {
            assert_eq!(valid.parse::<Name>().unwrap().as_str(), valid);
        }
        for invalid in ["", "a b", "a/b", "a;b", "ä", "a\n", &"a".repeat(65)] {
            let error = invalid.parse::<Name>().unwrap_err().to_string();
            assert!(error.ends_with("accepted: 1 to 64 letters, digits, dashes, dots, underscores or @"));
        }
    }

    #[test]
    fn a_role_has_the_permissions_of_the_lesser_ones() {
        assert!(Role::Admin > Role::Service && Role::Service > Role::Member && Role::Member > Role::Reader);
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        let error = "owner".parse::<Role>().unwrap_err().to_string();
        assert_eq!(error, "\"owner\" is not a role; accepted: admin, service, member, reader");
    }
}
