//! Requests that take effect once: the header `Idempotency-Key`, and the stored responses to repeated requests.
//!
//! ```text
//! Idempotent<T> -> body and Idempotency
//!                           |  transact: the effect and its response, in one transaction
//!                           '  once: an effect outside of the database, under a claim
//! ```
//!
//! A repeated request gets the stored response, with `idempotency-replayed: true`, for 24 hours. The key of
//! another body is 422, and that of a request in progress 409.

use std::{panic::AssertUnwindSafe, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequest, MatchedPath},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use phase6_idempotency::{
    self as idempotency, ClaimOutcome, Fingerprint, IdempotencyKey, Outcome, StoreOutcome, StoredResponse,
};
use phase6_identity::Principal;
use phase6_store::{Store, StoreError, Tx};
use phase6_telemetry::Exchange;
use serde::{Serialize, de::DeserializeOwned};
use utoipa::IntoParams;

use super::{ApiError, Reply, extract::read_json_body, parse_json};
use crate::Kit;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks a stored response.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The header `Idempotency-Key` of an operation that accepts it.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "it is only described")]
pub struct IdempotencyHeader {
    /// Key of the request: 1 to 255 visible ASCII characters in double quotes, unique for each request. A request
    /// that is repeated with its key within 24 hours has no further effect, and gets the response to the first one,
    /// which is stored for that time.
    #[param(rename = "Idempotency-Key")]
    key: Option<String>,
}

/// A JSON body, and the idempotency key of its request.
#[derive(Debug)]
pub struct Idempotent<T> {
    /// The body.
    pub body: T,
    /// The key.
    pub idempotency: Idempotency,
}

/// The idempotency key of a request, if it has one.
#[derive(Clone, Debug)]
pub struct Idempotency {
    request: Option<idempotency::Request>,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Idempotent<T> {
    type Rejection = Response;

    async fn from_request(request: http::Request<axum::body::Body>, _: &S) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let bytes: Bytes = read_json_body(&parts.headers, body).await.map_err(IntoResponse::into_response)?;
        let key = key(&parts.headers).map_err(IntoResponse::into_response)?;
        let principal = parts.extensions.get::<Principal>();
        let request = key.zip(principal).map(|(key, principal)| idempotency::Request {
            principal: principal.clone(),
            route: format!(
                "{} {}",
                parts.method,
                parts.extensions.get::<MatchedPath>().map_or(parts.uri.path(), MatchedPath::as_str)
            ),
            key,
            fingerprint: Fingerprint::of(target(&parts.uri), &bytes),
        });
        let body = parse_json(&bytes).map_err(IntoResponse::into_response)?;
        Ok(Self { body, idempotency: Idempotency { request } })
    }
}

/// Returns path and query of a request: its route is a template.
fn target(uri: &http::Uri) -> &str {
    uri.path_and_query().map_or("", |target| target.as_str())
}

/// Reads the header.
fn key(headers: &http::HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let mut values = headers.get_all(&IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let message = "the request has several `Idempotency-Key` headers; accepted: one";
        return Err(ApiError::bad_request("invalid_idempotency_key", message));
    }
    let key = IdempotencyKey::parse(value.to_str().unwrap_or_default());
    key.map(Some).map_err(|error| ApiError::bad_request("invalid_idempotency_key", error.to_string()))
}

impl Idempotency {
    /// True if the request has a key.
    pub fn has_key(&self) -> bool {
        self.request.is_some()
    }

    /// Runs `work` in a transaction, and commits it with the response. Work that fails is rolled back, and may be
    /// tried again with the key. A repeated request gets the stored response, and nothing is committed.
    ///
    /// # Errors
    ///
    /// Those of `work` and of the database; 409 and 422 for a key that has been used for another request.
    pub async fn transact<R, E>(
        self,
        store: &Store,
        work: impl AsyncFnOnce(&mut Tx) -> Result<R, E>,
    ) -> Result<Response, ApiError>
    where
        R: Serialize,
        ApiError: From<E>,
    {
        let mut tx = store.begin().await?;
        let error = match work(&mut tx).await {
            Ok(value) => {
                let response = success(value)?;
                let outcome = match &self.request {
                    Some(request) => idempotency::store(&mut tx, request, &response).await?,
                    None => StoreOutcome::Stored,
                };
                match outcome {
                    StoreOutcome::Stored => {
                        tx.commit().await?;
                        return Ok(respond(response));
                    }
                    StoreOutcome::Used => None,
                }
            }
            Err(error) => Some(ApiError::from(error)),
        };
        drop(tx);
        // Work that was done before may fail now because of its own effect.
        let known = match &self.request {
            Some(request) => idempotency::find(store, request).await?,
            None => None,
        };
        match (known, error) {
            (Some(outcome), _) => replay(outcome),
            (None, Some(error)) => Err(error),
            (None, None) => replay(Outcome::InProgress),
        }
    }

    /// Runs `work` under a claim of the key for `lifetime`, which must be longer than the work can take. The work is
    /// one of `tasks`: it is completed even if its client goes away, who can then ask again. Work that fails may be
    /// tried again with the key; so may work whose process has died, once the claim has expired.
    ///
    /// # Errors
    ///
    /// Those of `work` and of the database; 409 and 422 for a key that has been used for another request.
    pub async fn once<R, E>(
        self,
        kit: &Kit,
        lifetime: Duration,
        work: impl Future<Output = Result<R, E>> + Send + 'static,
    ) -> Result<Response, ApiError>
    where
        R: Serialize + Send,
        E: Send,
        ApiError: From<E>,
    {
        let work = work.map(|result| result.map_err(ApiError::from));
        let Some(request) = self.request else { return Ok(respond(success(work.await?)?)) };
        let store = kit.store.clone().ok_or_else(ApiError::internal_without_log)?;
        // The claim is part of the task too: nobody would end it if the client went away meanwhile.
        let working = async move {
            let claim = match idempotency::claim(&store, request, lifetime).await? {
                ClaimOutcome::Claimed(claim) => claim,
                ClaimOutcome::Used(outcome) => return replay(outcome),
            };
            let result = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!("the work of a request with an idempotency key panicked");
                Err(ApiError::internal_without_log())
            });
            match result.and_then(success) {
                Ok(response) => {
                    if let Err(error) = claim.complete(&store, &response).await {
                        // The effect has happened; the claim keeps it from happening again until it expires.
                        tracing::error!(%error, "failed to store the response to a request with an idempotency key");
                    }
                    Ok(respond(response))
                }
                Err(error) => {
                    if let Err(error) = claim.abandon(&store).await {
                        tracing::warn!(%error, "failed to make an idempotency key usable again");
                    }
                    Err(error)
                }
            }
        };
        let task = match Exchange::current() {
            Some(exchange) => kit.tasks.spawn(exchange.scope(working)),
            None => kit.tasks.spawn(working),
        };
        task.await.unwrap_or_else(|error| Err(ApiError::internal(&error)))
    }
}

/// Returns a response with the fields of `value` and `"ok": true`.
fn success(value: impl Serialize) -> Result<StoredResponse, ApiError> {
    let body = serde_json::to_string(&Reply::new(value)).map_err(|error| ApiError::internal(&error))?;
    Ok(StoredResponse { status: StatusCode::OK.as_u16(), body })
}

fn respond(response: StoredResponse) -> Response {
    let status = StatusCode::from_u16(response.status).unwrap_or(StatusCode::OK);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, response.body).into_response()
}

fn replay(outcome: Outcome) -> Result<Response, ApiError> {
    match outcome {
        Outcome::Completed(response) => {
            let mut response = respond(response);
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            Ok(response)
        }
        Outcome::InProgress => {
            let message = "a request with this idempotency key is in progress; try again later";
            Err(ApiError::new(StatusCode::CONFLICT, "idempotency_key_in_use", message).retry_after(1))
        }
        Outcome::OtherRequest => {
            let message = "the idempotency key was used for a request with another body; accepted: a new key";
            Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", message))
        }
    }
}

/// Deletes expired keys. A job.
pub(crate) async fn delete_expired(store: Store) -> Result<(), StoreError> {
    idempotency::delete_expired(&store).await
}
