//! SQL statements with bound values, run against a store or within a transaction.

use std::{borrow::Cow, time::Instant};

use sqlx::{
    Any, AssertSqlSafe, Encode, SqlSafeStr, Type,
    any::{AnyArguments, AnyRow},
    query::Query,
};

use crate::{Store, StoreError, store::STATEMENT_LIMIT};

/// Creates a statement from SQL that both databases understand, with `$1`, `$2` ... as placeholders.
///
/// The text must not contain untrusted input; pass values to [`Statement::bind`] instead.
pub fn sql(text: impl Into<Cow<'static, str>>) -> Statement {
    let text: Cow<'static, str> = text.into();
    let query = match &text {
        Cow::Borrowed(text) => sqlx::query((*text).into_sql_str()),
        Cow::Owned(text) => sqlx::query(AssertSqlSafe(text.clone()).into_sql_str()),
    };
    Statement { text, query }
}

/// A statement with bound values.
#[must_use = "a statement does nothing until it runs"]
pub struct Statement {
    text: Cow<'static, str>,
    query: Query<'static, Any, AnyArguments>,
}

/// A transaction; dropping it without a commit rolls it back.
pub struct Tx {
    pub(crate) inner: sqlx::Transaction<'static, Any>,
    pub(crate) store: Store,
    pub(crate) after_commit: Vec<Box<dyn FnOnce() + Send + Sync>>,
}

impl Tx {
    /// Commits the transaction.
    ///
    /// # Errors
    ///
    /// The commit failed; the transaction is rolled back.
    pub async fn commit(self) -> Result<(), StoreError> {
        with_limit(self.inner.commit()).await?;
        self.after_commit.into_iter().for_each(|action| action());
        Ok(())
    }

    /// Returns the expression for the current time of the database, in milliseconds since the Unix epoch.
    pub fn now_ms_sql(&self) -> &'static str {
        self.store.now_ms_sql()
    }

    /// Runs `action` after the commit, such as the invalidation of what the transaction has changed. It is dropped
    /// if the transaction is rolled back.
    pub fn after_commit(&mut self, action: impl FnOnce() + Send + Sync + 'static) {
        self.after_commit.push(Box::new(action));
    }
}

impl Statement {
    /// Binds the value of the next placeholder.
    pub fn bind<T>(mut self, value: T) -> Self
    where
        T: 'static + Send + Encode<'static, Any> + Type<Any>,
    {
        self.query = self.query.bind(value);
        self
    }

    /// Reads all rows.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn all(self, store: &Store) -> Result<Vec<AnyRow>, StoreError> {
        store.timed(&self.text, self.query.fetch_all(store.read_pool())).await
    }

    /// Reads the first row, if there is one.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn first(self, store: &Store) -> Result<Option<AnyRow>, StoreError> {
        store.timed(&self.text, self.query.fetch_optional(store.read_pool())).await
    }

    /// Writes; returns the number of affected rows.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn run(self, store: &Store) -> Result<u64, StoreError> {
        let done = store.timed(&self.text, self.query.execute(store.write_pool())).await?;
        Ok(done.rows_affected())
    }

    /// Writes; returns the rows of the `RETURNING` clause.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn returning(self, store: &Store) -> Result<Vec<AnyRow>, StoreError> {
        store.timed(&self.text, self.query.fetch_all(store.write_pool())).await
    }

    /// Reads all rows within a transaction.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn all_in(self, tx: &mut Tx) -> Result<Vec<AnyRow>, StoreError> {
        tx.store.timed(&self.text, self.query.fetch_all(&mut *tx.inner)).await
    }

    /// Reads the first row, if there is one, within a transaction.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn first_in(self, tx: &mut Tx) -> Result<Option<AnyRow>, StoreError> {
        tx.store.timed(&self.text, self.query.fetch_optional(&mut *tx.inner)).await
    }

    /// Writes within a transaction; returns the number of affected rows.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn run_in(self, tx: &mut Tx) -> Result<u64, StoreError> {
        let done = tx.store.timed(&self.text, self.query.execute(&mut *tx.inner)).await?;
        Ok(done.rows_affected())
    }
}

/// Awaits `work` for at most [`STATEMENT_LIMIT`].
pub(crate) async fn with_limit<T>(
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(STATEMENT_LIMIT, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StoreError::timed_out()),
    }
}

impl Store {
    /// Runs `work` within the time limit and records its duration.
    pub(crate) async fn timed<T>(
        &self,
        text: &str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let result = with_limit(work).await;
        self.record_duration(text, started.elapsed());
        result
    }
}
