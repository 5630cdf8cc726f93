//! `phase6 cache purge`: invalidates cached responses of running services.

use axum::body::{Body, to_bytes};
use futures_util::future::join_all;
use http::{HeaderValue, Method, Request, header::CONTENT_TYPE};
use phase6_chassis::Upstream;
use phase6_runner::{RunError, output::print, table::Table};
use serde_json::{Value, json};

use crate::{
    args::Purge,
    fleet_client::{DEADLINE, describe},
};

/// Largest response body, in bytes.
const MAX_RESPONSE: usize = 64 * 1024;

pub(crate) async fn run(options: Purge) -> Result<(), RunError> {
    let Purge { selection, api_key, target } = options;
    let services = target.services()?;
    let key = api_key.map(|key| HeaderValue::from_str(&key)).transpose().map_err(|_| {
        RunError::Usage("--api-key (or PHASE6_API_KEY) is invalid; accepted: visible characters".into())
    })?;
    let body = json!({
        "tags": selection.tags,
        "paths": selection.paths,
        "prefixes": selection.prefixes,
        "all": selection.all,
    })
    .to_string();
    let purges = services.iter().map(|service| purge(target.upstream(service), key.clone(), body.clone()));
    let results = join_all(purges).await;
    let mut table = Table::new(&["SERVICE", "ADDRESS", "PURGED", "ALL REPLICAS", "ERROR"]);
    let mut is_complete = true;
    for (service, result) in services.iter().zip(results) {
        let name = service.name.to_owned();
        let address = target.address(service).to_string();
        table.row(match result {
            Ok(response) => {
                let all_replicas = response["allReplicas"] == true;
                is_complete &= all_replicas;
                let shown = if all_replicas { "yes" } else { "no" }.to_owned();
                [name, address, response["purged"].to_string(), shown, "-".to_owned()]
            }
            Err(error) => {
                is_complete = false;
                [name, address, "-".to_owned(), "no".to_owned(), error]
            }
        });
    }
    print(table)?;
    if is_complete {
        Ok(())
    } else {
        Err(RunError::Failed("the purge did not reach all replicas of every service".into()))
    }
}

async fn purge(upstream: Upstream, key: Option<HeaderValue>, body: String) -> Result<Value, String> {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("/api/v1/cache/invalidate");
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(mut key) = key {
        key.set_sensitive(true);
        request.headers_mut().insert("x-api-key", key);
    }
    let response = upstream.call(request, DEADLINE).await.map_err(|error| describe(&error))?;
    let status = response.status();
    let body = tokio::time::timeout(DEADLINE, to_bytes(response.into_body(), MAX_RESPONSE))
        .await
        .map_err(|_| format!("no complete response within {} s", DEADLINE.as_secs()))?
        .map_err(|error| error.to_string())?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(body);
    }
    Err(body["error"]["message"].as_str().map_or_else(|| format!("status {status}"), str::to_owned))
}
