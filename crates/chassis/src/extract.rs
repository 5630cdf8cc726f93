//! What handlers take from a request. A refusal names the field, what is wrong with it and what
//! would be accepted, in the one envelope.

use std::error::Error;

use axum::{
    extract::{FromRequest, FromRequestParts, rejection::PathRejection},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{Request, StatusCode, header::CONTENT_TYPE, request::Parts};
use http_body_util::BodyExt;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::{ApiError, server::BodyError, stack::too_large};

/// A JSON body. An empty body is an empty object.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

/// The query.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

/// The variable parts of the path.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Response;

    async fn from_request(request: Request<axum::body::Body>, _: &S) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let bytes = read(body).await.map_err(IntoResponse::into_response)?;
        let kind = parts.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        let is_json = |kind: &str| {
            let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            kind == "application/json" || kind.ends_with("+json")
        };
        if !bytes.is_empty() && !kind.is_some_and(is_json) {
            let message = "the body must be JSON: send `content-type: application/json`";
            let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message);
            return Err(error.into_response());
        }
        parse_json(&bytes).map(Json).map_err(IntoResponse::into_response)
    }
}

/// The bytes of a body, within its bounds.
async fn read(body: axum::body::Body) -> Result<Bytes, ApiError> {
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(body_fault(&error).unwrap_or_else(incomplete)),
    }
}

/// What a caller is told whose own body is the cause of an error; none when it is not.
pub(crate) fn body_fault(error: &(dyn Error + 'static)) -> Option<ApiError> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(fault) = error.downcast_ref::<BodyError>() {
            return Some(match fault {
                BodyError::TooLarge(max) => too_large(*max),
                BodyError::TooSlow(_) => {
                    ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", format!("the {fault}"))
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

/// Reads JSON into a type; a refusal names the field.
///
/// # Errors
///
/// 400 with the code `invalid_json` for what is no JSON at all, else `invalid_body`.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = if bytes.is_empty() { b"{}" } else { bytes };
    // A list would be read as the fields in their order.
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') && serde_json::from_slice::<IgnoredAny>(text).is_ok() {
        return Err(ApiError::bad_request("invalid_body", "the body must be a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let (path, inner) = (error.path().to_string(), error.inner());
        match inner.classify() {
            serde_json::error::Category::Data => {
                let what = without_position(&inner.to_string());
                let message = if path == "." { what } else { format!("field `{path}`: {what}") };
                ApiError::bad_request("invalid_body", message)
            }
            _ => ApiError::bad_request("invalid_json", format!("the body is not valid JSON: {inner}")),
        }
    })?;
    deserializer.end().map_err(|error| {
        ApiError::bad_request("invalid_json", format!("the body is not valid JSON: {error}"))
    })?;
    Ok(value)
}

/// Line and column say nothing to who sent one line.
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
                let what = rejection.source().map_or_else(|| rejection.to_string(), ToString::to_string);
                let error = ApiError::bad_request("invalid_query", format!("query parameter {what}"));
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

/// Whether a query is UTF-8 once its percent signs are resolved.
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
        #[allow(dead_code, reason = "only its reading is of interest")]
        max_cost: i64,
        #[serde(default)]
        #[allow(dead_code, reason = "only its reading is of interest")]
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        #[allow(dead_code, reason = "only its reading is of interest")]
        name: String,
    }

    fn told(text: &[u8]) -> String {
        parse_json::<Order>(text).unwrap_err().message().to_owned()
    }

    #[test]
    fn a_refusal_names_the_field_and_what_is_expected() {
        assert_eq!(told(br#"{"maxCost":"x"}"#), r#"field `maxCost`: invalid type: string "x", expected i64"#);
        assert_eq!(
            told(br#"{"maxCost":1,"items":[{"name":"a"},{"name":7}]}"#),
            "field `items[1].name`: invalid type: integer `7`, expected a string"
        );
        assert_eq!(
            told(br#"{"maxCost":1,"colour":2}"#),
            "field `colour`: unknown field `colour`, expected `maxCost` or `items`"
        );
        assert_eq!(told(b""), "missing field `maxCost`");
        assert_eq!(
            told(br#"{"maxCost":1e99}"#),
            "field `maxCost`: invalid type: floating point `1e+99`, expected i64"
        );
        assert_eq!(
            told(br#"{"maxCost":99999999999999999999}"#),
            "field `maxCost`: invalid type: floating point `1e+20`, expected i64"
        );
    }

    #[test]
    fn a_body_that_is_no_object_is_told_so() {
        for text in [&b"[1]"[..], b" [7, null]", b"\"x\"", b"1", b"null"] {
            assert_eq!(told(text), "the body must be a JSON object");
        }
    }

    #[test]
    fn a_query_that_is_not_utf_8_is_told_so() {
        for (query, good) in [("a=%C3%A9&b=%", true), ("", true), ("a=%ff", false), ("a=%C3&b=1", false)] {
            assert_eq!(is_utf8(query.as_bytes()), good, "{query}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_so() {
        for text in [&b"{"[..], b"nope", b"{}{}", b"\xff\xfe{}", b"{\"maxCost\":1}x"] {
            assert!(
                told(text).starts_with("the body is not valid JSON") || told(text).starts_with("missing"),
                "{}",
                told(text)
            );
        }
    }
}
