//! `phase6 status`: which policy the running services enforce.

use futures_util::future::join_all;
use phase6_chassis::Upstream;
use phase6_runner::{RunError, output::print, table::Table};
use serde_json::Value;

use crate::{
    args::{Credentials, Target},
    fleet_client::{CallFailure, DEADLINE},
};

pub(crate) async fn run(target: Target) -> Result<(), RunError> {
    let services = target.services()?;
    let results =
        join_all(services.iter().map(|service| status(target.upstream(service, &Credentials::default()))))
            .await;
    let mut table = Table::new(&["SERVICE", "ADDRESS", "READY", "REVISION", "HASH", "AGE", "ERROR"]);
    let mut all_healthy = true;
    for (service, result) in services.iter().zip(results) {
        let name = service.name.to_owned();
        let address = target.address(service).to_string();
        let none = || "-".to_owned();
        table.row(match result {
            Ok(Status { is_ready, policy }) => {
                let text = |field: &str| policy[field].as_str().unwrap_or("-").to_owned();
                let error = policy["error"].as_str().map(|error| error.lines().next().unwrap_or_default());
                all_healthy &= is_ready && error.is_none();
                [
                    name,
                    address,
                    if is_ready { "yes" } else { "no" }.to_owned(),
                    policy["revision"].to_string(),
                    text("hash"),
                    age(policy["ageMs"].as_u64().unwrap_or_default()),
                    error.unwrap_or("-").to_owned(),
                ]
            }
            Err(error) => {
                all_healthy = false;
                [name, address, "no".to_owned(), none(), none(), none(), error]
            }
        });
    }
    print(table)?;
    if all_healthy {
        Ok(())
    } else {
        Err(RunError::Failed("some services are not ready or report an error".into()))
    }
}

struct Status {
    is_ready: bool,
    /// Response of `/policyz`.
    policy: Value,
}

async fn status(upstream: Upstream) -> Result<Status, String> {
    let policy =
        upstream.get_json("/policyz", DEADLINE).await.map_err(|error| CallFailure::from(error).describe())?;
    Ok(Status { is_ready: upstream.is_ready(DEADLINE).await, policy })
}

/// Formats an age in the units of `kubectl`.
fn age(ms: u64) -> String {
    match ms / 1000 {
        secs @ 0..=119 => format!("{secs}s"),
        secs @ 120..=7_199 => format!("{}m", secs / 60),
        secs @ 7_200..=172_799 => format!("{}h", secs / 3_600),
        secs => format!("{}d", secs / 86_400),
    }
}
