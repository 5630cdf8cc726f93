//! Invalidation of cached responses on request: `POST /api/v1/cache/invalidate`.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use http::Uri;
use phase6_cache::Invalidation;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ServiceState;
use crate::{ApiError, Json, Reply};

/// Largest number of tags, paths and prefixes in one request.
const MAX_INVALIDATIONS: usize = 100;
/// Longest wait until all replicas have received the invalidations.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Responses to invalidate, for every tenant.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PurgeRequest {
    /// Responses that carry one of these tags in `Surrogate-Key`.
    tags: Vec<String>,
    /// Responses for these paths, with any query.
    paths: Vec<String>,
    /// Responses for these paths and all paths below them.
    prefixes: Vec<String>,
    /// All responses.
    all: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PurgeResult {
    /// Responses that were removed from the memory of this replica.
    purged: usize,
    /// True if all replicas have received the invalidation. If false they receive it when Redis is back;
    /// until then they cache responses for at most a second.
    all_replicas: bool,
}

/// Invalidates cached responses of all tenants on all replicas.
#[utoipa::path(post, path = "/api/v1/cache/invalidate", tag = "operations", request_body = PurgeRequest,
    responses((status = 200, body = Reply<PurgeResult>),
        (status = 400, description = "No responses are named, or a name is invalid")))]
pub(crate) async fn purge(
    State(state): State<Arc<ServiceState>>,
    Json(request): Json<PurgeRequest>,
) -> Result<Reply<PurgeResult>, ApiError> {
    let cache = &state.cache;
    let invalidations = request.invalidations()?;
    let purged = invalidations.into_iter().map(|invalidation| cache.invalidate(invalidation)).sum();
    let all_replicas = tokio::time::timeout(PUBLISH_TIMEOUT, cache.wait_until_published()).await.is_ok();
    Ok(Reply::new(PurgeResult { purged, all_replicas }))
}

impl PurgeRequest {
    fn invalidations(self) -> Result<Vec<Invalidation>, ApiError> {
        let invalid = |message: String| Err(ApiError::bad_request("invalid_request", message));
        if let Some(tag) = self.tags.iter().find(|tag| !is_tag(tag)) {
            return invalid(format!(
                "tags: {tag:?} is not a tag; accepted: visible characters without spaces"
            ));
        }
        for (field, paths) in [("paths", &self.paths), ("prefixes", &self.prefixes)] {
            if let Some(path) = paths.iter().find(|path| normalized(path).is_none()) {
                let accepted = "a path that begins with / and has no query";
                return invalid(format!("{field}: {path:?} is not a path; accepted: {accepted}"));
            }
        }
        let paths = |paths: Vec<String>| paths.into_iter().filter_map(|path| normalized(&path));
        let all: Vec<Invalidation> = (self.all.then_some(Invalidation::All).into_iter())
            .chain(self.tags.into_iter().map(Invalidation::Tag))
            .chain(paths(self.paths).map(Invalidation::Path))
            .chain(paths(self.prefixes).map(Invalidation::Prefix))
            .collect();
        match all.len() {
            0 => invalid("no responses are named; accepted: tags, paths, prefixes, or all: true".to_owned()),
            1..=MAX_INVALIDATIONS => Ok(all),
            count => invalid(format!("{count} names are given; accepted: at most {MAX_INVALIDATIONS}")),
        }
    }
}

fn is_tag(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns a path in the form in which the cache stores it; `None` if it is not a path.
fn normalized(path: &str) -> Option<String> {
    let uri = path.parse::<Uri>().ok().filter(|uri| path.starts_with('/') && uri.query().is_none())?;
    Some(phase6_cache::normalize_target(&uri).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Vec<Invalidation>, ApiError> {
        serde_json::from_value::<PurgeRequest>(value).unwrap().invalidations()
    }

    #[test]
    fn paths_are_normalized() {
        let read = read(json!({"tags": ["a"], "paths": ["/%61"], "prefixes": ["/b/"], "all": true})).unwrap();
        let expected = [
            Invalidation::All,
            Invalidation::Tag("a".into()),
            Invalidation::Path("/a".into()),
            Invalidation::Prefix("/b/".into()),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn rejects_invalid_names_and_says_what_is_accepted() {
        for (request, part) in [
            (json!({}), "accepted: tags, paths"),
            (json!({"tags": ["a b"]}), "tags: \"a b\""),
            (json!({"tags": [""]}), "tags: \"\""),
            (json!({"paths": ["a"]}), "paths: \"a\""),
            (json!({"prefixes": ["/a?b"]}), "prefixes: \"/a?b\""),
            (json!({"tags": vec!["a"; 101]}), "at most 100"),
        ] {
            let error = read(request.clone()).unwrap_err();
            assert!(error.message().contains(part), "{request}: {}", error.message());
        }
    }
}
