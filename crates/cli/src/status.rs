//! `phase6 status`: which policy the running services enforce.

use std::{net::SocketAddr, time::Duration};

use phase6_breaker::Settings;
use phase6_chassis::{Definition, InternalToken, Upstream};
use phase6_live::Live;
use phase6_policy::CircuitBreaker;
use serde_json::Value;

use crate::{
    args::Status,
    ending::Ending,
    output::print,
    services::{ALL, names, port},
    table::Table,
};

const LIMIT: Duration = Duration::from_secs(2);

pub(crate) async fn run(arguments: Status) -> Result<(), Ending> {
    if let Some(unknown) = arguments.only.iter().find(|name| ALL.iter().all(|service| service.name != **name))
    {
        return Err(Ending::Usage(format!("--only names {unknown}; accepted: {}", names())));
    }
    let asked: Vec<_> = ALL
        .into_iter()
        .filter(|service| arguments.only.is_empty() || arguments.only.iter().any(|name| name == service.name))
        .collect();
    let answers = futures_util::future::join_all(asked.iter().map(|service| ask(service, &arguments))).await;
    let mut table = Table::new(&["SERVICE", "ADDRESS", "READY", "REVISION", "HASH", "AGE", "ERROR"]);
    let mut well = true;
    for (service, answer) in asked.iter().zip(answers) {
        let address = address(service, &arguments).to_string();
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

async fn ask(service: &Definition, arguments: &Status) -> Result<(bool, Value), String> {
    let address = address(service, arguments).to_string();
    let settings = Live::new(Settings::from(&CircuitBreaker::default()));
    // A stranger asks: the token is our own and means nothing to the service.
    let upstream = Upstream::new(service.name, &[address], &settings, InternalToken::random());
    let policy = upstream.get_json("/policyz", LIMIT).await.map_err(|error| {
        let text = error.to_string();
        if text.contains("refused") { "not running".to_owned() } else { text }
    })?;
    let ready = upstream.is_ready(LIMIT).await;
    Ok((ready, policy))
}

fn address(service: &Definition, arguments: &Status) -> SocketAddr {
    SocketAddr::new(arguments.bind, port(service, arguments.base_port))
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
