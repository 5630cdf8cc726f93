//! Storage errors, classified by what the caller can do about them.

use std::{fmt, sync::Arc};

/// Failure of a statement or a connection.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or cannot serve the statement now; a later attempt may succeed.
    #[error("database unavailable: {condition}")]
    Unavailable {
        /// Cause, without values or credentials.
        condition: TransientCondition,
        /// Error of the driver, if there is one.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// A record with the same unique key exists.
    #[error("record exists already")]
    Conflict(#[source] sqlx::Error),
    /// The statement or the schema is wrong, which is a bug.
    #[error("database statement failed")]
    Failed(#[source] sqlx::Error),
    /// The schema could not be migrated.
    #[error("schema migration failed")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// A batched read failed; all of its waiters share the error.
    #[error("batched read failed")]
    Batch(#[source] Arc<Self>),
}

/// Condition of the database that passes without a change of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransientCondition {
    /// The time limit passed.
    TimedOut,
    /// All connections of the pool stayed in use until the time limit.
    NoFreeConnection,
    /// The connection was lost.
    ConnectionLost,
    /// The store is closed, or the server is shutting down.
    ShuttingDown,
    /// Another writer holds a lock.
    Busy,
    /// Concurrent transactions conflict.
    TransactionConflict,
    /// The server lacks memory, connections or another resource.
    OutOfResources,
    /// The database accepts no writes.
    ReadOnly,
    /// No space is left on the disk.
    DiskFull,
    /// The disk failed.
    DiskError,
    /// The file cannot be opened.
    FileNotOpenable,
    /// The task of a batched read stopped.
    LoaderStopped,
}

impl fmt::Display for TransientCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "time limit passed",
            Self::NoFreeConnection => "no free connection",
            Self::ConnectionLost => "connection lost",
            Self::ShuttingDown => "shutting down",
            Self::Busy => "busy",
            Self::TransactionConflict => "conflicting transactions",
            Self::OutOfResources => "out of resources",
            Self::ReadOnly => "read-only",
            Self::DiskFull => "disk full",
            Self::DiskError => "disk error",
            Self::FileNotOpenable => "file cannot be opened",
            Self::LoaderStopped => "batched read stopped",
        })
    }
}

impl StoreError {
    pub(crate) fn timed_out() -> Self {
        Self::Unavailable { condition: TransientCondition::TimedOut, source: None }
    }

    /// Returns true if a later attempt may succeed.
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
        let condition = match &error {
            Error::PoolTimedOut => Some(TransientCondition::NoFreeConnection),
            Error::PoolClosed => Some(TransientCondition::ShuttingDown),
            Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed => {
                Some(TransientCondition::ConnectionLost)
            }
            Error::Database(inner) => {
                if inner.is_unique_violation() {
                    return Self::Conflict(error);
                }
                inner.code().and_then(|code| transient_condition(&code))
            }
            _ => None,
        };
        match condition {
            Some(condition) => Self::Unavailable { condition, source: Some(error) },
            None => Self::Failed(error),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::Migration(error)
    }
}

/// Maps an error code of either database to a transient condition; `None` for a permanent error.
fn transient_condition(code: &str) -> Option<TransientCondition> {
    // SQLite: the low byte of an extended result code is the primary code.
    if let Ok(number) = code.parse::<i32>()
        && code.len() < 5
    {
        return match number & 0xff {
            5 | 6 => Some(TransientCondition::Busy),
            8 => Some(TransientCondition::ReadOnly),
            10 => Some(TransientCondition::DiskError),
            13 => Some(TransientCondition::DiskFull),
            14 => Some(TransientCondition::FileNotOpenable),
            _ => None,
        };
    }
    // PostgreSQL: the first two characters of an SQLSTATE are its class.
    match code {
        "25006" => Some(TransientCondition::ReadOnly),
        "53100" => Some(TransientCondition::DiskFull),
        _ if code.starts_with("08") => Some(TransientCondition::ConnectionLost),
        _ if code.starts_with("40") => Some(TransientCondition::TransactionConflict),
        _ if code.starts_with("53") => Some(TransientCondition::OutOfResources),
        _ if code.starts_with("55") => Some(TransientCondition::Busy),
        _ if code.starts_with("57") => Some(TransientCondition::ShuttingDown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_error_codes_of_both_databases() {
        for (code, text) in [
            ("5", "busy"),
            ("1032", "read-only"),
            ("13", "disk full"),
            ("53100", "disk full"),
            ("57P01", "shutting down"),
            ("08006", "connection lost"),
        ] {
            assert_eq!(transient_condition(code).unwrap().to_string(), text, "{code}");
        }
        for code in ["1", "42P01", "23505", "22003"] {
            assert_eq!(transient_condition(code), None, "{code}");
        }
    }
}
