//! `phase6 cache purge`: invalidates cached responses of running services.

use futures_util::future::join_all;
use http::Method;
use phase6_runner::{RunError, output::print, table::Table};
use serde_json::json;

use crate::{
    args::Purge,
    fleet_client::{Call, CallFailure},
};

pub(crate) async fn run(options: Purge) -> Result<(), RunError> {
    let Purge { selection, credentials, target } = options;
    let services = target.services()?;
    let body = json!({
        "tags": selection.tags,
        "paths": selection.paths,
        "prefixes": selection.prefixes,
        "all": selection.all,
    });
    let call = Call {
        method: Method::POST,
        path: "/api/v1/cache/invalidate".to_owned(),
        body: Some(body.to_string()),
    };
    let upstreams: Vec<_> = services.iter().map(|service| target.upstream(service, &credentials)).collect();
    let results = join_all(upstreams.iter().map(|upstream| credentials.send(upstream, call.clone()))).await;
    let mut table = Table::new(&["SERVICE", "ADDRESS", "PURGED", "ALL REPLICAS", "ERROR"]);
    let mut is_complete = true;
    for (service, result) in services.iter().zip(results) {
        let name = service.name.to_owned();
        let address = target.address(service).to_string();
        table.row(match result.map_err(CallFailure::describe) {
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
