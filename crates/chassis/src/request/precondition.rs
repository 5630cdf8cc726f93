//! Conditional changes (RFC 9110, section 13): the version of a setting as an entity tag, and the version that a
//! change follows.

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header::IF_MATCH, request::Parts};
use phase6_store::{ExpectedVersion, VersionMismatch};

use super::ApiError;

/// The header `If-Match`: versions that a change may follow; `None` if the request does not have it.
#[derive(Clone, Debug)]
pub struct IfMatch(pub Option<ExpectedVersion>);

impl IfMatch {
    /// Returns the versions. A change that replaces everything must name them.
    ///
    /// # Errors
    ///
    /// 428 if the request does not have the header.
    pub fn required(self) -> Result<ExpectedVersion, ApiError> {
        self.0.ok_or_else(|| {
            let message =
                "the header `If-Match` is required; accepted: the `ETag` of the last response, or *";
            ApiError::new(StatusCode::PRECONDITION_REQUIRED, "precondition_required", message)
        })
    }

    /// Returns the versions, or any if the request does not have the header.
    pub fn optional(self) -> ExpectedVersion {
        self.0.unwrap_or(ExpectedVersion::Any)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let lines: Vec<&HeaderValue> = parts.headers.get_all(IF_MATCH).iter().collect();
        if lines.is_empty() {
            return Ok(Self(None));
        }
        let text: Option<Vec<&str>> = lines.into_iter().map(|line| line.to_str().ok()).collect();
        let expected = text.and_then(|lines| parse(&lines.join(",")));
        expected.map(|expected| Self(Some(expected))).ok_or_else(|| {
            let message = "the header `If-Match` is not valid; accepted: entity tags in double quotes, or *";
            ApiError::bad_request("invalid_header", message).into_response()
        })
    }
}

/// Parses a list of entity tags. Tags that are weak or of another form match no version.
fn parse(text: &str) -> Option<ExpectedVersion> {
    let text = text.trim();
    if text == "*" {
        return Some(ExpectedVersion::Any);
    }
    let mut versions = Vec::new();
    for tag in text.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
        let (is_weak, opaque) = tag.strip_prefix("W/").map_or((false, tag), |tag| (true, tag));
        let opaque = opaque.strip_prefix('"')?.strip_suffix('"')?;
        versions.extend(opaque.parse::<i64>().ok().filter(|_| !is_weak));
    }
    Some(ExpectedVersion::OneOf(versions))
}

/// Returns the entity tag of a version.
pub fn etag(version: i64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("a number can be sent in a header")
}

impl From<VersionMismatch> for ApiError {
    fn from(mismatch: VersionMismatch) -> Self {
        let message =
            format!("{mismatch}; read it again, and repeat the change with its `ETag` in `If-Match`");
        Self::new(StatusCode::PRECONDITION_FAILED, "version_mismatch", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_names_versions() {
        let one_of = |versions: &[i64]| Some(ExpectedVersion::OneOf(versions.to_vec()));
        for (text, expected) in [
            ("*", Some(ExpectedVersion::Any)),
            ("\"3\"", one_of(&[3])),
            (" \"3\" , \"4\",", one_of(&[3, 4])),
            ("W/\"3\"", one_of(&[])),
            ("\"abc\", \"7\"", one_of(&[7])),
            ("3", None),
            ("\"3", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(etag(12), "\"12\"");
    }
}
