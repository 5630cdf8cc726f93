//! `phase6 up`: the whole fleet in one process, obeying its file while it runs.

mod fleet;
mod reload;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Instant,
};

use phase6_chassis::FileWatch;
use phase6_crds::Document;

use self::fleet::Fleet;
use crate::{
    args::Up,
    ending::Ending,
    files, log,
    output::say,
    running,
    services::{ALL, BASE_PORT, names},
    stopping::Stopping,
};

/// The example fleet, for who has no file yet.
const EXAMPLE: &str = include_str!("../../../crds/examples/fleet.yaml");
const EXAMPLE_PATH: &str = "crds/examples/fleet.yaml";

pub(crate) async fn run(arguments: Up) -> Result<(), Ending> {
    let started = Instant::now();
    log::begin(arguments.common.log);
    check(&arguments)?;
    let host = running::host(&arguments.common, fleet::peers(&arguments), std::time::Duration::ZERO)?;
    let paths = paths(&arguments)?;
    // From before the files are read: a save in between must not be missed.
    let mut watch = FileWatch::new(&paths);
    let documents = files::load(&paths).map_err(|faults| Ending::Findings(files::lines(&faults)))?;
    all_declared(&arguments.only, &documents)?;

    let mut stopping = Stopping::listen()?;
    let mut fleet = Fleet::new(host, &arguments);
    let starting = async {
        fleet.start_all(documents).await?;
        fleet.wait_until_answering().await
    };
    let answering = tokio::select! {
        answering = starting => answering?,
        () = stopping.asked() => return Ok(()),
    };
    let services = if answering == 1 { "service answers" } else { "services answer" };
    say(format_args!(
        "phase6 {}: {answering} {services} {:.2} s after the start\n",
        running::VERSION,
        started.elapsed().as_secs_f64()
    ));
    say(fleet.table());
    say(hints(&paths, &fleet, &arguments));

    loop {
        let stopped = tokio::select! {
            () = watch.changed() => None,
            stopped = fleet.stopped() => Some(stopped),
            () = stopping.asked() => break,
        };
        let obeying = async {
            match stopped {
                None => reload::reload(&mut fleet, &paths, &watch).await,
                Some((left, drained, next)) => {
                    let cut = if drained { "" } else { "; some requests were cut" };
                    say(format_args!("{}: stopped{cut}", left.name));
                    if let Some(document) = next {
                        reload::start(&mut fleet, document).await;
                    }
                }
            }
        };
        // A start can take as long as a database takes to answer; Ctrl-C does not wait for that.
        tokio::select! {
            () = obeying => {}
            () = stopping.asked() => break,
        }
    }
    say("\nstopping: requests under way are finished; Ctrl-C again stops at once");
    tokio::select! {
        drained = fleet.stop_all() => {
            say(if drained { "stopped" } else { "stopped; some requests took too long and were cut" });
        }
        () = stopping.insisted() => say("stopped at once"),
    }
    Ok(())
}

fn check(arguments: &Up) -> Result<(), Ending> {
    match arguments.only.iter().find(|name| ALL.iter().all(|service| service.name != **name)) {
        Some(unknown) => Err(Ending::Usage(format!("--only names {unknown}; accepted: {}", names()))),
        None => Ok(()),
    }
}

/// The files to follow: those given, or the example, or a copy of it.
fn paths(arguments: &Up) -> Result<Vec<PathBuf>, Ending> {
    if !arguments.files.is_empty() {
        return Ok(arguments.files.clone());
    }
    if Path::new(EXAMPLE_PATH).is_file() {
        return Ok(vec![EXAMPLE_PATH.into()]);
    }
    let copy = arguments.common.data.join("fleet.yaml");
    if !copy.exists() {
        std::fs::write(&copy, EXAMPLE)
            .map_err(|error| Ending::Findings(format!("cannot write {}: {error}", copy.display())))?;
    }
    Ok(vec![copy])
}

/// Every service that `--only` names must have a document, or it would be missing without a word.
fn all_declared(only: &[String], documents: &[Document]) -> Result<(), Ending> {
    let declared: Vec<_> = documents.iter().map(|document| document.resource.spec.service.as_str()).collect();
    let missing: Vec<_> = only.iter().map(String::as_str).filter(|name| !declared.contains(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Ending::Findings(format!(
        "--only names {}, but no document declares it; declared: {}",
        missing.join(", "),
        declared.join(", ")
    )))
}

/// Lines to copy. They name what runs, where it is reached, and what it asks for.
fn hints(paths: &[PathBuf], fleet: &Fleet, arguments: &Up) -> String {
    let files: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let key = arguments.common.api_keys.as_ref().map_or("", |_| " -H 'X-API-Key: KEY'");
    let curl = |options: &str, address: SocketAddr, path: &str| {
        let ip = running::reached_at(address.ip());
        format!("\n  curl {options}{key} http://{}{path}", SocketAddr::new(ip, address.port()))
    };
    let web = fleet.address_of("web").map(|address| curl("-s", address, "/system/status"));
    let budget = fleet.address_of("budget").map(|address| curl("-si", address, "/api/v1/budget"));
    let mut lines = web.into_iter().chain(budget).collect::<String>();
    if lines.is_empty() {
        lines = fleet.any_address().map_or_else(String::new, |address| curl("-s", address, "/api/v1/status"));
    }
    let mut status = vec![program(), "status".to_owned()];
    if arguments.base_port != BASE_PORT {
        status.push(format!("--base-port {}", arguments.base_port));
    }
    let bind = running::reached_at(arguments.common.bind);
    if bind != Ipv4Addr::LOCALHOST {
        status.push(format!("--bind {bind}"));
    }
    let running = fleet.services();
    if running.len() < ALL.len() {
        status.push(format!("--only {}", running.join(",")));
    }
    let status = status.join(" ");
    format!(
        "\nFollowing {}: edit it and save. Ctrl-C stops. Try in another terminal:\n{lines}\n  {status}\n",
        files.join(", ")
    )
}

/// This program as it was called, for a line that is copied into a shell.
fn program() -> String {
    let called = std::env::args_os().next();
    let called = called.map_or_else(|| "phase6".into(), |called| called.to_string_lossy().into_owned());
    let plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    if called.chars().all(plain) { called } else { format!("'{}'", called.replace('\'', r"'\''")) }
}
