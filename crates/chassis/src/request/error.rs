//! The envelope of every response: `{"ok":true,...}` or
//! `{"ok":false,"error":{"code","message"},"traceId"}`.
//!
//! An error has a stable code and a sentence that the client can act on; details go to the log. The faults of a
//! body are also listed by field. Its body is
//! complete but for the trace ID, which [`EnvelopeLayer`](super::EnvelopeLayer) appends on the way out.

use std::fmt::Write;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use phase6_store::StoreError;
use phase6_telemetry::TraceId;
use serde::Serialize;
use utoipa::ToSchema;

use super::{FieldFault, fields::summary};

/// Marks a response whose body lacks its trace ID. Never leaves the process.
pub(super) const LACKS_TRACE_ID: HeaderName = HeaderName::from_static("phase6-lacks-trace-id");

/// Attributes a 503 to something behind the service that responds. The service itself works, and the circuit
/// breakers of its callers count the response as a success.
pub const FAULT: HeaderName = HeaderName::from_static("phase6-fault");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A successful response: `"ok": true` and the fields of the result.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reply<T> {
    /// Always true.
    ok: bool,
    #[serde(flatten)]
    payload: T,
}

impl<T> Reply<T> {
    /// Creates a response with the fields of `payload`.
    pub fn new(payload: T) -> Self {
        Self { ok: true, payload }
    }
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self) {
            Ok(body) => ([(CONTENT_TYPE, JSON)], Body::from(body)).into_response(),
            Err(error) => ApiError::internal(&error).into_response(),
        }
    }
}

/// A rejected or failed request.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Faults of the fields of the body.
    fields: Vec<FieldFault>,
    retry_after_seconds: Option<u64>,
    /// True if something behind this service is at fault.
    is_dependency_fault: bool,
}

/// Body of the response to a rejected or failed request.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// Always false.
    pub ok: bool,
    /// Code and message.
    pub error: ErrorDetail,
    /// Trace ID of the request.
    pub trace_id: String,
}

/// Code and message of an error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable code, for programs.
    pub code: String,
    /// Sentence, for people.
    pub message: String,
    /// Faults of the fields of the body, if the code is `invalid_body`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldFault>,
}

impl ApiError {
    /// Creates an error with a status, a stable code and a sentence.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, code, message, fields: vec![], retry_after_seconds: None, is_dependency_fault: false }
    }

    /// Creates a 400: a mistake of the caller. `message` names the field.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// Creates a 400 with the code `invalid_body`, for faults of fields.
    pub fn invalid_body(fields: Vec<FieldFault>) -> Self {
        let message = summary(&fields);
        Self { fields, ..Self::bad_request("invalid_body", message) }
    }

    /// Creates a 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// Creates a 503 for which something behind this service is at fault, with the time until a retry.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after_seconds: u64) -> Self {
        Self {
            is_dependency_fault: true,
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
        }
    }

    /// Creates a 500. The error with its causes goes to the log, not to the caller.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        let chain = std::iter::successors(Some(error), |error| error.source());
        let chain = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        tracing::error!(error = chain, "request failed");
        Self::internal_without_log()
    }

    /// Creates a 500 whose cause is already in the log.
    pub(crate) fn internal_without_log() -> Self {
        let message = "internal error; the service's log has the details";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// Sets the time until a retry.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the body up to its trace ID.
    fn body_without_trace_id(&self) -> String {
        let code = serde_json::Value::from(self.code);
        let message = serde_json::Value::from(self.message.as_str());
        let fields = match self.fields.as_slice() {
            [] => String::new(),
            fields => {
                format!(r#","fields":{}"#, serde_json::to_string(fields).unwrap_or_else(|_| "[]".into()))
            }
        };
        format!(r#"{{"ok":false,"error":{{"code":{code},"message":{message}{fields}}}"#)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Conflict(_) => {
                Self::new(StatusCode::CONFLICT, "conflict", "the record already exists")
            }
            _ if error.is_unavailable() => {
                tracing::warn!(%error, "database unavailable");
                Self::unavailable("database_unavailable", "the database is unavailable", 2)
            }
            _ => Self::internal(&error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body_without_trace_id()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(LACKS_TRACE_ID, HeaderValue::from_static("1"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.is_dependency_fault {
            headers.insert(FAULT, HeaderValue::from_static("dependency"));
        }
        response
    }
}

/// Creates the error for a body over the limit.
pub(crate) fn body_too_large(max_bytes: u64) -> ApiError {
    let message = format!("the body is larger than {max_bytes} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

/// Returns the whole HTTP/1.1 response to a request that could not be parsed; `None` if `status` is not the
/// status of such a response.
pub(crate) fn unparsed_request_response(status: u16) -> Option<Bytes> {
    let (code, message) = match status {
        400 => ("malformed_request", "the request is not well-formed HTTP/1.1"),
        414 => ("uri_too_long", "the request target is too long"),
        431 => ("headers_too_large", "the request has too many or too large headers"),
        _ => return None,
    };
    let status = StatusCode::from_u16(status).ok()?;
    let trace_id = TraceId::random();
    let mut body = ApiError::new(status, code, message).body_without_trace_id();
    let _ = write!(body, r#","traceId":"{trace_id}"}}"#);
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    Some(response.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_to_an_unparsed_request_has_the_envelope() {
        let response = unparsed_request_response(431).unwrap();
        let text = std::str::from_utf8(&response).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "headers_too_large");
        assert_eq!(body["traceId"].as_str().unwrap().len(), 32);
        assert!(unparsed_request_response(200).is_none());
    }
}
