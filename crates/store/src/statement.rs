//! One SQL statement with its values, and where it can run.

use std::{borrow::Cow, time::Instant};

use sqlx::{
    Any, AssertSqlSafe, Encode, SqlSafeStr, Type,
    any::{AnyArguments, AnyRow},
    query::Query,
};

use crate::{Store, StoreError, store::STATEMENT_LIMIT};

/// A statement in the common SQL of both databases, with `$1`, `$2` ... for values.
///
/// The text must be written by us: values go into [`Statement::bind`], never into the text.
pub fn sql(text: impl Into<Cow<'static, str>>) -> Statement {
    let text: Cow<'static, str> = text.into();
    let query = match &text {
        Cow::Borrowed(text) => sqlx::query((*text).into_sql_str()),
        Cow::Owned(text) => sqlx::query(AssertSqlSafe(text.clone()).into_sql_str()),
    };
    Statement { text, query }
}

/// A statement with its values.
#[must_use = "a statement does nothing until it runs"]
pub struct Statement {
    text: Cow<'static, str>,
    query: Query<'static, Any, AnyArguments>,
}

/// A transaction; rolled back unless it is committed.
pub struct Tx {
    pub(crate) inner: sqlx::Transaction<'static, Any>,
    pub(crate) store: Store,
}

impl Tx {
    /// Makes everything in it durable.
    ///
    /// # Errors
    ///
    /// Nothing of it is kept.
    pub async fn commit(self) -> Result<(), StoreError> {
        limited(self.inner.commit()).await
    }
}

impl Statement {
    /// The value of the next placeholder.
    pub fn bind<T>(mut self, value: T) -> Self
    where
        T: 'static + Send + Encode<'static, Any> + Type<Any>,
    {
        self.query = self.query.bind(value);
        self
    }

    /// All rows, read.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn all(self, store: &Store) -> Result<Vec<AnyRow>, StoreError> {
        store.watched(&self.text, self.query.fetch_all(store.reading())).await
    }

    /// The first row if there is one, read.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn first(self, store: &Store) -> Result<Option<AnyRow>, StoreError> {
        store.watched(&self.text, self.query.fetch_optional(store.reading())).await
    }

    /// Writes; gives the number of rows changed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn run(self, store: &Store) -> Result<u64, StoreError> {
        let done = store.watched(&self.text, self.query.execute(store.writing())).await?;
        Ok(done.rows_affected())
    }

    /// Writes and gives the rows that the statement returns.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn returning(self, store: &Store) -> Result<Vec<AnyRow>, StoreError> {
        store.watched(&self.text, self.query.fetch_all(store.writing())).await
    }

    /// All rows, in a transaction.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn all_in(self, tx: &mut Tx) -> Result<Vec<AnyRow>, StoreError> {
        tx.store.watched(&self.text, self.query.fetch_all(&mut *tx.inner)).await
    }

    /// The first row if there is one, in a transaction.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn first_in(self, tx: &mut Tx) -> Result<Option<AnyRow>, StoreError> {
        tx.store.watched(&self.text, self.query.fetch_optional(&mut *tx.inner)).await
    }

    /// Writes, in a transaction; gives the number of rows changed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn run_in(self, tx: &mut Tx) -> Result<u64, StoreError> {
        let done = tx.store.watched(&self.text, self.query.execute(&mut *tx.inner)).await?;
        Ok(done.rows_affected())
    }
}

/// Runs database work within the time limit.
pub(crate) async fn limited<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(STATEMENT_LIMIT, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StoreError::timed_out()),
    }
}

impl Store {
    /// Runs `work` within the time limit and remembers the statement if it took long.
    pub(crate) async fn watched<T>(
        &self,
        text: &str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let result = limited(work).await;
        self.took(text, started.elapsed());
        result
    }
}
