//! Forgetting cached answers on demand: `POST /api/v1/cache/invalidate`.

use std::{sync::Arc, time::Duration};

use axum::{Extension, extract::State};
use http::{StatusCode, Uri};
use phase6_cache::{Cache, Invalidation};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ApiError, Json, Reply, common::Common, stack::RequestContext};

/// The owner of an API key who may do it. Where no keys are required, everybody may.
const ADMIN: &str = "admin";
/// Most names in one request.
const MOST: usize = 100;
/// How long other replicas may take to be told.
const LIMIT: Duration = Duration::from_secs(2);

/// What is to be forgotten, for every tenant.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Purge {
    /// Answers that carry one of these in `Surrogate-Key`.
    tags: Vec<String>,
    /// Answers for these paths, with any query.
    paths: Vec<String>,
    /// Answers for these paths and all below them.
    prefixes: Vec<String>,
    /// All answers.
    all: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Purged {
    /// Responses that were removed from the memory of this replica.
    purged: usize,
    /// True if all replicas have received the invalidation. If false they receive it when Redis is back;
    /// until then they cache responses for at most a second.
    all_replicas: bool,
}

/// Forgets answers, on all replicas. Needs the API key of `admin` where keys are required.
#[utoipa::path(post, path = "/api/v1/cache/invalidate", tag = "operations", request_body = Purge,
    responses((status = 200, body = Reply<Purged>), (status = 400, description = "Nothing usable is named"),
        (status = 403, description = "Not the key of `admin`")))]
pub(crate) async fn purge(
    State(common): State<Arc<Common>>,
    Extension(context): Extension<RequestContext>,
    Json(wanted): Json<Purge>,
) -> Result<Reply<Purged>, ApiError> {
    let caller = &context.caller;
    if context.keys_required && !caller.internal && caller.owner.as_deref() != Some(ADMIN) {
        let message = format!("only the API key of `{ADMIN}` may make cached answers invalid");
        return Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message));
    }
    let wanted = wanted.invalidations()?;
    let cache: &Cache = &common.cache;
    let purged = wanted.into_iter().map(|invalidation| cache.invalidate(invalidation)).sum();
    let all_replicas = tokio::time::timeout(LIMIT, cache.wait_until_published()).await.is_ok();
    Ok(Reply::new(Purged { purged, all_replicas }))
}

impl Purge {
    fn invalidations(self) -> Result<Vec<Invalidation>, ApiError> {
        let refused = |message: String| Err(ApiError::bad_request("invalid_request", message));
        if let Some(tag) =
            self.tags.iter().find(|tag| tag.is_empty() || !tag.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return refused(format!("tags: {tag:?} is no tag; accepted: visible characters without spaces"));
        }
        let normal = |path: &String| {
            let uri = path.parse::<Uri>().ok().filter(|uri| path.starts_with('/') && uri.query().is_none());
            uri.map(|uri| phase6_cache::normalize_target(&uri).into_owned())
        };
        for (field, paths) in [("paths", &self.paths), ("prefixes", &self.prefixes)] {
            if let Some(path) = paths.iter().find(|path| normal(path).is_none()) {
                return refused(format!("{field}: {path:?} is no path; accepted: /... without a query"));
            }
        }
        let all: Vec<Invalidation> = (self.all.then_some(Invalidation::All).into_iter())
            .chain(self.tags.into_iter().map(Invalidation::Tag))
            .chain(self.paths.iter().filter_map(normal).map(Invalidation::Path))
            .chain(self.prefixes.iter().filter_map(normal).map(Invalidation::Prefix))
            .collect();
        match all.len() {
            0 => refused("nothing is named; accepted: tags, paths, prefixes, or all: true".to_owned()),
            1..=MOST => Ok(all),
            count => refused(format!("{count} names; accepted: at most {MOST}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Vec<Invalidation>, ApiError> {
        serde_json::from_value::<Purge>(value).unwrap().invalidations()
    }

    #[test]
    fn names_are_read_in_their_normal_form() {
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
    fn what_is_no_name_is_refused_with_what_would_be() {
        for (wrong, told) in [
            (json!({}), "accepted: tags, paths"),
            (json!({"tags": ["a b"]}), "tags: \"a b\""),
            (json!({"tags": [""]}), "tags: \"\""),
            (json!({"paths": ["a"]}), "paths: \"a\""),
            (json!({"prefixes": ["/a?b"]}), "prefixes: \"/a?b\""),
            (json!({"tags": vec!["a"; 101]}), "at most 100"),
        ] {
            let error = read(wrong.clone()).unwrap_err();
            assert!(error.message().contains(told), "{wrong}: {}", error.message());
        }
    }
}
