//! What can go wrong with records, by what the caller can do about it.

use std::sync::Arc;

/// A statement or a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or cannot write now; trying again later can help.
    #[error("database unavailable: {what}")]
    Unavailable {
        /// What was found, without values or credentials.
        what: &'static str,
        /// The driver's own error.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// Another record has the same identity.
    #[error("record exists already")]
    Conflict(#[source] sqlx::Error),
    /// The statement or the schema is wrong: a bug.
    #[error("database statement failed")]
    Failed(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("migrating the schema failed")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// A read together with others failed, for all that waited for it.
    #[error("batched read failed")]
    Batch(#[source] Arc<Self>),
}

impl StoreError {
    pub(crate) fn timed_out() -> Self {
        Self::Unavailable { what: "time limit passed", source: None }
    }

    /// Whether trying again later can help.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Batch(shared) => shared.is_unavailable(),
            Self::Conflict(_) | Self::Failed(_) | Self::Migration(_) => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error;
        let unavailable = match &error {
            Error::PoolTimedOut => Some("no free connection"),
            Error::PoolClosed => Some("shutting down"),
            Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed => {
                Some("connection lost")
            }
            Error::Database(inner) => {
                if inner.is_unique_violation() {
                    return Self::Conflict(error);
                }
                inner.code().and_then(|code| condition(&code))
            }
            _ => None,
        };
        match unavailable {
            Some(what) => Self::Unavailable { what, source: Some(error) },
            None => Self::Failed(error),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::Migration(error)
    }
}

/// The passing conditions among the error codes of both databases.
fn condition(code: &str) -> Option<&'static str> {
    // SQLite: the low byte of an extended result code.
    if let Ok(number) = code.parse::<i32>()
        && code.len() < 5
    {
        return match number & 0xff {
            5 | 6 => Some("busy"),
            8 => Some("read-only"),
            10 => Some("disk error"),
            13 => Some("disk full"),
            14 => Some("file cannot be opened"),
            _ => None,
        };
    }
    // PostgreSQL: classes of SQLSTATE.
    match code {
        "25006" => Some("read-only"),
        "53100" => Some("disk full"),
        _ if code.starts_with("08") => Some("connection lost"),
        _ if code.starts_with("40") => Some("conflicting transactions"),
        _ if code.starts_with("53") => Some("out of resources"),
        _ if code.starts_with("55") => Some("busy"),
        _ if code.starts_with("57") => Some("shutting down"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_conditions_are_told_from_bugs() {
        for (code, what) in [
            ("5", "busy"),
            ("1032", "read-only"),
            ("13", "disk full"),
            ("53100", "disk full"),
            ("57P01", "shutting down"),
            ("08006", "connection lost"),
        ] {
            assert_eq!(condition(code), Some(what), "{code}");
        }
        for code in ["1", "42P01", "23505", "22003"] {
            assert_eq!(condition(code), None, "{code}");
        }
    }
}
