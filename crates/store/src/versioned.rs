//! Settings that all replicas share: rows with a version, so that a change can name the version that it follows.
//!
//! A table of settings has the columns `name TEXT PRIMARY KEY`, `value TEXT` and `version BIGINT`. Changes are
//! applied one after the other; none is lost, whichever replica makes it.

use crate::{AnyRow, Row, Store, StoreError, Tx, sql};

/// A value and its version: 0 before the first change, higher by one with each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// Version of the value.
    pub version: i64,
    /// The value.
    pub value: T,
}

/// Version that a change follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Any version.
    Any,
    /// One of these.
    OneOf(Vec<i64>),
}

/// The setting has another version than the change follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the current version is {current}")]
pub struct VersionMismatch {
    /// Version of the setting.
    pub current: i64,
}

/// A table of settings.
#[derive(Clone, Copy, Debug)]
pub struct SettingsTable(pub &'static str);

impl<T> Versioned<T> {
    /// Returns the value with another type.
    pub fn with<U>(self, value: U) -> Versioned<U> {
        Versioned { version: self.version, value }
    }

    /// Checks that a change may follow this version.
    ///
    /// # Errors
    ///
    /// The change follows another version.
    pub fn check(&self, expected: &ExpectedVersion) -> Result<(), VersionMismatch> {
        match expected {
            ExpectedVersion::OneOf(versions) if !versions.contains(&self.version) => {
                Err(VersionMismatch { current: self.version })
            }
            ExpectedVersion::Any | ExpectedVersion::OneOf(_) => Ok(()),
        }
    }
}

impl SettingsTable {
    /// Reads a setting; `None` if it has never been written.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub async fn load(
        self,
        store: &Store,
        name: &'static str,
    ) -> Result<Option<Versioned<String>>, StoreError> {
        let row = sql(format!("SELECT value, version FROM {} WHERE name = $1", self.0));
        Ok(row.bind(name).first(store).await?.map(|row| read(&row)))
    }

    /// Reads a setting for a change, and locks it until the end of the transaction. Writes `initial` as version 0
    /// if it has never been written.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn lock(
        self,
        tx: &mut Tx,
        name: &'static str,
        initial: String,
    ) -> Result<Versioned<String>, StoreError> {
        let table = self.0;
        sql(format!("INSERT INTO {table} (name, value, version) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING"))
            .bind(name)
            .bind(initial.clone())
            .run_in(tx)
            .await?;
        // Updating the row to its own value locks it: of two concurrent changes, the second one reads what the
        // first one has written.
        let row = sql(format!("UPDATE {table} SET value = value WHERE name = $1 RETURNING value, version"))
            .bind(name)
            .first_in(tx)
            .await?;
        Ok(row.map_or(Versioned { version: 0, value: initial }, |row| read(&row)))
    }

    /// Writes the next version of a setting that [`SettingsTable::lock`] has locked. Returns its number.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn write(
        self,
        tx: &mut Tx,
        name: &'static str,
        locked: i64,
        value: String,
    ) -> Result<i64, StoreError> {
        let next = locked + 1;
        sql(format!("UPDATE {} SET value = $2, version = $3 WHERE name = $1", self.0))
            .bind(name)
            .bind(value)
            .bind(next)
            .run_in(tx)
            .await?;
        Ok(next)
    }
}

fn read(row: &AnyRow) -> Versioned<String> {
    Versioned { version: row.get("version"), value: row.get("value") }
}
