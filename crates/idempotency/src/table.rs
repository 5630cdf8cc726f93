//! The table of keys: fingerprints, responses and claims.
//!
//! Guarantees that of several transactions with one key at most one commits with [`store`], whichever replicas run
//! them, and that one holder at a time has a claim. A row is unusable from its expiry on, whether or not it has
//! been deleted. The clock of the database decides, so the clocks of replicas need not agree.

use std::time::Duration;

use phase6_store::{Migration, Row, Statement, Store, StoreError, Tx, sql};

use crate::Request;

/// Time for which a response is stored.
pub const RETENTION: Duration = Duration::from_hours(24);
/// Number of expired rows that one statement deletes.
const DELETE_BATCH: i64 = 1000;

/// Schema of the keys, oldest step first.
pub const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "idempotency",
    // Services that share a database also share the table: routes differ.
    sql: "CREATE TABLE IF NOT EXISTS phase6_idempotency (
        tenant TEXT NOT NULL,
        subject TEXT NOT NULL,
        route TEXT NOT NULL,
        id TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        holder TEXT NOT NULL,
        status BIGINT,
        body TEXT,
        expires_ms BIGINT NOT NULL,
        PRIMARY KEY (tenant, subject, route, id)
    );
    CREATE INDEX IF NOT EXISTS phase6_idempotency_expires ON phase6_idempotency (expires_ms);",
}];

/// The response to a successful request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    /// HTTP status.
    pub status: u16,
    /// JSON.
    pub body: String,
}

/// Knowledge about a key that has been used before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request was successful before; this was its response.
    Completed(StoredResponse),
    /// A request with the same key is in progress.
    InProgress,
    /// The key was used for a request with another body.
    OtherRequest,
}

/// Result of [`store`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// The response is stored if the transaction commits.
    Stored,
    /// The key has been used before: the transaction must be rolled back, and [`find`] has the response.
    Used,
}

/// Stores the response to a request in the transaction of its effect.
///
/// # Errors
///
/// The database cannot be written.
pub async fn store(
    tx: &mut Tx,
    request: &Request,
    response: &StoredResponse,
) -> Result<StoreOutcome, StoreError> {
    let stored = insert(tx.now_ms_sql(), request, "", Some(response), RETENTION).run_in(tx).await?;
    Ok(if stored == 1 { StoreOutcome::Stored } else { StoreOutcome::Used })
}

/// Inserts a row, or replaces one that has expired.
fn insert(
    now: &str,
    request: &Request,
    holder: &str,
    response: Option<&StoredResponse>,
    lifetime: Duration,
) -> Statement {
    let statement = sql(format!(
        "INSERT INTO phase6_idempotency
             (tenant, subject, route, id, fingerprint, holder, status, body, expires_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, {now} + $9)
         ON CONFLICT (tenant, subject, route, id) DO UPDATE SET
             fingerprint = excluded.fingerprint, holder = excluded.holder, status = excluded.status,
             body = excluded.body, expires_ms = excluded.expires_ms
         WHERE phase6_idempotency.expires_ms <= {now}"
    ));
    scope(statement, request)
        .bind(request.fingerprint.to_text())
        .bind(holder.to_owned())
        .bind(response.map(|response| i64::from(response.status)))
        .bind(response.map(|response| response.body.clone()))
        .bind(lifetime.as_millis() as i64)
}

/// Binds the primary key of a request.
fn scope(statement: Statement, request: &Request) -> Statement {
    statement
        .bind(request.principal.tenant.to_string())
        .bind(request.principal.subject.to_string())
        .bind(request.route.clone())
        .bind(request.key.as_str().to_owned())
}

/// Returns what is known of the key of a request; `None` if it is not in use.
///
/// # Errors
///
/// The database cannot be read.
pub async fn find(store: &Store, request: &Request) -> Result<Option<Outcome>, StoreError> {
    let now = store.now_ms_sql();
    let statement = sql(format!(
        "SELECT fingerprint, status, body FROM phase6_idempotency
         WHERE tenant = $1 AND subject = $2 AND route = $3 AND id = $4 AND expires_ms > {now}"
    ));
    let row = scope(statement, request).first(store).await?;
    Ok(row.map(|row| {
        if row.get::<String, _>("fingerprint") != request.fingerprint.to_text() {
            return Outcome::OtherRequest;
        }
        match (row.get::<Option<i64>, _>("status"), row.get::<Option<String>, _>("body")) {
            (Some(status), Some(body)) => {
                Outcome::Completed(StoredResponse { status: u16::try_from(status).unwrap_or(200), body })
            }
            _ => Outcome::InProgress,
        }
    }))
}

/// Result of [`claim`].
#[derive(Debug)]
pub enum ClaimOutcome {
    /// The effect may happen now.
    Claimed(Claim),
    /// The key is in use; the effect must not happen.
    Used(Outcome),
}

/// Right to perform the effect of a request, until it expires.
#[derive(Debug)]
pub struct Claim {
    request: Request,
    holder: String,
}

/// Claims the key of a request for `lifetime`, which must be longer than the effect can take.
///
/// # Errors
///
/// The database cannot be written.
pub async fn claim(store: &Store, request: Request, lifetime: Duration) -> Result<ClaimOutcome, StoreError> {
    let holder = format!("{:032x}", rand::random::<u128>());
    if insert(store.now_ms_sql(), &request, &holder, None, lifetime).run(store).await? == 1 {
        return Ok(ClaimOutcome::Claimed(Claim { request, holder }));
    }
    // Abandoned or expired since: the client may repeat its request.
    let outcome = find(store, &request).await?.unwrap_or(Outcome::InProgress);
    Ok(ClaimOutcome::Used(outcome))
}

impl Claim {
    /// Stores the response to the request. Does nothing if the claim has expired and another one has begun.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub async fn complete(self, store: &Store, response: &StoredResponse) -> Result<(), StoreError> {
        let now = store.now_ms_sql();
        let statement = sql(format!(
            "UPDATE phase6_idempotency SET status = $6, body = $7, expires_ms = {now} + $8
             WHERE tenant = $1 AND subject = $2 AND route = $3 AND id = $4 AND holder = $5"
        ));
        scope(statement, &self.request)
            .bind(self.holder)
            .bind(i64::from(response.status))
            .bind(response.body.clone())
            .bind(RETENTION.as_millis() as i64)
            .run(store)
            .await
            .map(drop)
    }

    /// Makes the key usable again, because the effect has not happened.
    ///
    /// # Errors
    ///
    /// The database cannot be written. The claim ends when it expires.
    pub async fn abandon(self, store: &Store) -> Result<(), StoreError> {
        let statement = sql("DELETE FROM phase6_idempotency
             WHERE tenant = $1 AND subject = $2 AND route = $3 AND id = $4 AND holder = $5");
        scope(statement, &self.request).bind(self.holder).run(store).await.map(drop)
    }
}

/// Deletes expired rows.
///
/// # Errors
///
/// The database cannot be written.
pub async fn delete_expired(store: &Store) -> Result<(), StoreError> {
    let now = store.now_ms_sql();
    loop {
        // The outer condition is checked again for a row that has been renewed meanwhile.
        let deleted = sql(format!(
            "DELETE FROM phase6_idempotency WHERE expires_ms <= {now} AND (tenant, subject, route, id) IN
             (SELECT tenant, subject, route, id FROM phase6_idempotency WHERE expires_ms <= {now} LIMIT $1)"
        ))
        .bind(DELETE_BATCH)
        .run(store)
        .await?;
        if deleted < DELETE_BATCH as u64 {
            return Ok(());
        }
    }
}
