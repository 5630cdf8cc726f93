//! `phase6 status`: which policy the running services enforce.

use phase6_chassis::Upstream;
use serde_json::Value;

use crate::{
    args::Asked,
    asked::{LIMIT, not_running},
    ending::Ending,
    output::print,
    table::Table,
};

pub(crate) async fn run(asked: Asked) -> Result<(), Ending> {
    let services = asked.services()?;
    let answers =
        futures_util::future::join_all(services.iter().map(|service| ask(asked.upstream(service)))).await;
    let mut table = Table::new(&["SERVICE", "ADDRESS", "READY", "REVISION", "HASH", "AGE", "ERROR"]);
    let mut well = true;
    for (service, answer) in services.iter().zip(answers) {
        let address = asked.address(service).to_string();
        let row = match answer {
            Ok((ready, policy)) => {
                let text = |name: &str| policy[name].as_str().unwrap_or("-").to_owned();
                let error = policy["error"].as_str().map(|error| error.lines().next().unwrap_or_default());
                well &= ready && error.is_none();
                [
                    service.name.to_owned(),
                    address,
                    if ready { "yes" } else { "no" }.to_owned(),
                    policy["revision"].to_string(),
                    text("hash"),
                    age(policy["ageMs"].as_u64().unwrap_or_default()),
                    error.unwrap_or("-").to_owned(),
                ]
            }
            Err(error) => {
                well = false;
                let dash = || "-".to_owned();
                [service.name.to_owned(), address, "no".to_owned(), dash(), dash(), dash(), error]
            }
        };
        table.row(row);
    }
    print(table)?;
    if well { Ok(()) } else { Err(Ending::Findings("not every service is ready and without errors".into())) }
}

async fn ask(upstream: Upstream) -> Result<(bool, Value), String> {
    let policy = upstream.get_json("/policyz", LIMIT).await.map_err(|error| not_running(&error))?;
    let ready = upstream.is_ready(LIMIT).await;
    Ok((ready, policy))
}

/// An age as `kubectl` prints it.
fn age(ms: u64) -> String {
    match ms / 1000 {
        secs @ 0..=119 => format!("{secs}s"),
        secs @ 120..=7_199 => format!("{}m", secs / 60),
        secs @ 7_200..=172_799 => format!("{}h", secs / 3_600),
        secs => format!("{}d", secs / 86_400),
    }
}
