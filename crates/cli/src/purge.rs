//! `phase6 cache purge`: running services forget answers.

use axum::body::Body;
use http::{HeaderValue, Method, Request, header::CONTENT_TYPE};
use phase6_chassis::Upstream;
use serde_json::{Value, json};

use crate::{
    args::Purge,
    asked::{LIMIT, not_running},
    ending::Ending,
    output::print,
    table::Table,
};

const LARGEST_ANSWER: usize = 64 * 1024;

pub(crate) async fn run(arguments: Purge) -> Result<(), Ending> {
    let Purge { what, api_key, asked } = arguments;
    let services = asked.services()?;
    let key = api_key.map(|key| HeaderValue::from_str(&key)).transpose().map_err(|_| {
        Ending::Usage("--api-key (or PHASE6_API_KEY) is not usable; accepted: visible characters".into())
    })?;
    let body = json!({"tags": what.tags, "paths": what.paths, "prefixes": what.prefixes, "all": what.all})
        .to_string();
    let answers = futures_util::future::join_all(
        services.iter().map(|service| purge(asked.upstream(service), key.clone(), body.clone())),
    )
    .await;
    let mut table = Table::new(&["SERVICE", "ADDRESS", "FORGOTTEN", "EVERYWHERE", "ERROR"]);
    let mut well = true;
    for (service, answer) in services.iter().zip(answers) {
        let address = asked.address(service).to_string();
        let name = service.name.to_owned();
        table.row(match answer {
            Ok(told) => {
                let everywhere = told["everywhere"] == true;
                well &= everywhere;
                let everywhere = if everywhere { "yes" } else { "no" }.to_owned();
                [name, address, told["forgotten"].to_string(), everywhere, "-".to_owned()]
            }
            Err(error) => {
                well = false;
                [name, address, "-".to_owned(), "no".to_owned(), error]
            }
        });
    }
    print(table)?;
    if well { Ok(()) } else { Err(Ending::Findings("not every service has forgotten everywhere".into())) }
}

async fn purge(upstream: Upstream, key: Option<HeaderValue>, body: String) -> Result<Value, String> {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = "/api/v1/cache/invalidate".parse().map_err(|_| "bad path".to_owned())?;
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(mut key) = key {
        key.set_sensitive(true);
        request.headers_mut().insert("x-api-key", key);
    }
    let answer = upstream.call(request, LIMIT).await.map_err(|error| not_running(&error))?;
    let status = answer.status();
    let body = tokio::time::timeout(LIMIT, axum::body::to_bytes(answer.into_body(), LARGEST_ANSWER))
        .await
        .map_err(|_| "too slow".to_owned())?
        .map_err(|error| error.to_string())?;
    let told: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(told);
    }
    Err(told["error"]["message"].as_str().map_or_else(|| format!("status {status}"), str::to_owned))
}
