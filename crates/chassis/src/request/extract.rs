//! Typed parts of a request for handlers: JSON body, query, path.
//!
//! A rejection has the envelope of all errors, and names the field, the fault and what is accepted.

use std::error::Error;

use axum::{
    extract::{FromRequest, FromRequestParts, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header::CONTENT_TYPE, request::Parts};
use http_body_util::BodyExt;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{ApiError, FieldFault, body_too_large, fault};
use crate::server::BodyError;

/// Largest body in which all faults are searched, in bytes.
const MAX_SEARCHED_BYTES: usize = 64 * 1024;

/// A JSON body. An empty body is an empty object.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

/// Parameters of the query.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

/// Parameters of the path.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Response;

    async fn from_request(request: Request<axum::body::Body>, _: &S) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let bytes = read_json_body(&parts.headers, body).await.map_err(IntoResponse::into_response)?;
        parse_json(&bytes).map(Json).map_err(IntoResponse::into_response)
    }
}

/// Reads a whole body that must be JSON by its content type.
pub(super) async fn read_json_body(headers: &HeaderMap, body: axum::body::Body) -> Result<Bytes, ApiError> {
    let bytes = read(body).await?;
    let content_type = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    if !bytes.is_empty() && !content_type.is_some_and(is_json) {
        let message = "the body must be JSON: send `content-type: application/json`";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    Ok(bytes)
}

/// True for the content types of JSON.
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json" || media_type.ends_with("+json")
}

/// Reads the whole body.
async fn read(body: axum::body::Body) -> Result<Bytes, ApiError> {
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(body_error(&error).unwrap_or_else(incomplete)),
    }
}

/// Returns the error for a caller whose own body caused `error`; `None` if it did not.
pub(crate) fn body_error(error: &(dyn Error + 'static)) -> Option<ApiError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(body) = error.downcast_ref::<BodyError>() {
            return Some(match body {
                BodyError::TooLarge(max_bytes) => body_too_large(*max_bytes),
                BodyError::TooSlow(_) => {
                    ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", format!("the {body}"))
                }
                BodyError::Broken(_) => incomplete(),
            });
        }
        cause = error.source();
    }
    None
}

fn incomplete() -> ApiError {
    ApiError::bad_request("body_incomplete", "the connection broke before the body was complete")
}

/// Parses a JSON object. Empty input is an empty object. Errors name the field.
///
/// # Errors
///
/// 400 with the code `invalid_json` if the input is not JSON, else `invalid_body`.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = if bytes.is_empty() { b"{}" } else { bytes };
    // Serde would take a list for the fields of a struct in their order.
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') && serde_json::from_slice::<IgnoredAny>(text).is_ok() {
        return Err(ApiError::bad_request("invalid_body", "the body must be a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner());
        match inner.classify() {
            serde_json::error::Category::Data => {
                let first = fault::describe(&path, &without_position(&inner.to_string()));
                ApiError::invalid_body(all_faults::<T>(text, first))
            }
            _ => ApiError::bad_request("invalid_json", format!("the body is not valid JSON: {inner}")),
        }
    })?;
    deserializer.end().map_err(|error| {
        ApiError::bad_request("invalid_json", format!("the body is not valid JSON: {error}"))
    })?;
    Ok(value)
}

/// Returns all faults of a body of moderate size, or its first one.
fn all_faults<T: DeserializeOwned>(text: &[u8], first: FieldFault) -> Vec<FieldFault> {
    let body = (text.len() <= MAX_SEARCHED_BYTES).then(|| serde_json::from_slice(text).ok()).flatten();
    let all = body.map(fault::all::<T>).unwrap_or_default();
    // Duplicate fields are not found in a parsed value.
    if all.contains(&first) { all } else { vec![first] }
}

/// Removes line and column from an error of the JSON parser: bodies mostly have one line, and the field is
/// named.
fn without_position(text: &str) -> String {
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        if !is_utf8(parts.uri.query().unwrap_or_default().as_bytes()) {
            let error = ApiError::bad_request("invalid_query", "the query is not UTF-8");
            return Err(error.into_response());
        }
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                let fault = rejection.source().map_or_else(|| rejection.to_string(), ToString::to_string);
                let error = ApiError::bad_request("invalid_query", format!("query parameter {fault}"));
                Err(error.into_response())
            }
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(ApiError::bad_request("invalid_path", error.body_text()).into_response())
            }
            Err(error) => Err(ApiError::internal(&error).into_response()),
        }
    }
}

/// True if a query is UTF-8 after percent-decoding. The parser of queries would replace invalid bytes.
fn is_utf8(mut query: &[u8]) -> bool {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut bytes = Vec::with_capacity(query.len());
    while let [first, rest @ ..] = query {
        query = rest;
        match (first, rest) {
            (b'%', [high, low, after @ ..]) if digit(high).is_some() && digit(low).is_some() => {
                bytes.push((digit(high).unwrap_or(0) * 16 + digit(low).unwrap_or(0)) as u8);
                query = after;
            }
            _ => bytes.push(*first),
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Order {
        #[allow(dead_code, reason = "only parsed")]
        max_cost: i64,
        #[serde(default)]
        #[allow(dead_code, reason = "only parsed")]
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        #[allow(dead_code, reason = "only parsed")]
        name: String,
    }

    fn message(text: &[u8]) -> String {
        parse_json::<Order>(text).unwrap_err().message().to_owned()
    }

    #[test]
    fn rejections_name_the_field_and_what_is_accepted() {
        assert_eq!(message(br#"{"maxCost":"x"}"#), r#"field `maxCost` is "x"; accepted: an integer"#);
        assert_eq!(
            message(br#"{"maxCost":1,"items":[{"name":"a"},{"name":7}]}"#),
            "field `items[1].name` is 7; accepted: a string"
        );
        assert_eq!(
            message(br#"{"maxCost":1,"color":2}"#),
            "field `color` is unknown; accepted: `maxCost`, `items`"
        );
        assert_eq!(message(b""), "field `maxCost` is required");
        assert_eq!(message(br#"{"maxCost":1e99}"#), "field `maxCost` is 1e+99; accepted: an integer");
        assert_eq!(
            message(br#"{"maxCost":99999999999999999999}"#),
            "field `maxCost` is 1e+20; accepted: an integer"
        );
    }

    #[test]
    fn rejects_bodies_that_are_not_objects() {
        for text in [&b"[1]"[..], b" [7, null]", b"\"x\"", b"1", b"null"] {
            assert_eq!(message(text), "the body must be a JSON object");
        }
    }

    #[test]
    fn recognizes_queries_that_are_not_utf_8() {
        for (query, expected) in [("a=%C3%A9&b=%", true), ("", true), ("a=%ff", false), ("a=%C3&b=1", false)]
        {
            assert_eq!(is_utf8(query.as_bytes()), expected, "{query}");
        }
    }

    #[test]
    fn rejects_bodies_that_are_not_json() {
        for text in [&b"{"[..], b"nope", b"{}{}", b"\xff\xfe{}", b"{\"maxCost\":1}x"] {
            assert!(
                message(text).starts_with("the body is not valid JSON")
                    || message(text).ends_with("is required"),
                "{}",
                message(text)
            );
        }
    }
}
