//! `phase6 up`: the whole fleet in one process, which follows its manifests while it runs.
//!
//! ```text
//! saved file -> load -> plan(running, manifests) -> Vec<Action> -> execute
//! ```

#![allow(clippy::doc_markdown, reason = "doc comments of options are help texts for a terminal")]

mod execute;
mod fleet;
mod plan;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use phase6_catalog::{BASE_PORT, SERVICES, Service, names};
use phase6_manifest::Manifest;

use self::fleet::Fleet;
use crate::{
    HostOptions, RunError, host, lines, load, log, output::notify, signals::StopSignals, watch::FileWatch,
};

/// The example fleet, for users who have no file yet.
const EXAMPLE: &str = include_str!("../../../crds/examples/fleet.yaml");
const EXAMPLE_PATH: &str = "crds/examples/fleet.yaml";

/// Command-line options of `phase6 up`.
#[derive(Debug, Args)]
pub struct UpOptions {
    /// File or folder with Phase6Service documents; repeatable
    /// [default: crds/examples/fleet.yaml, or else a copy of it in the data folder]
    #[arg(short, long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,

    /// Run only these services
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,

    /// First port of the fleet: a service with the default port 3000+k listens on N+k
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u16).range(1..=64_536))]
    pub base_port: u16,

    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub host: HostOptions,
}

/// Runs the fleet until it is asked to stop.
///
/// # Errors
///
/// The command line or the manifests are invalid, or a service cannot start.
pub async fn run(options: UpOptions) -> Result<(), RunError> {
    let started = Instant::now();
    log::start(options.host.log);
    check_names(&options.only)?;
    let host = host::host(&options.host, fleet::peers(&options), Duration::ZERO, false).await?;
    let paths = paths(&options)?;
    // Created before the files are read: a save in between must not be missed.
    let mut watch = FileWatch::new(&paths);
    let manifests = load(&paths).map_err(|errors| RunError::Failed(lines(&errors)))?;
    check_declared(&options.only, &manifests)?;

    let mut signals = StopSignals::install()?;
    let mut fleet = Fleet::new(host, &options);
    let starting = async {
        fleet.start_all(manifests).await?;
        fleet.wait_until_ready().await
    };
    let ready = tokio::select! {
        ready = starting => ready?,
        () = signals.stop() => return Ok(()),
    };
    let services = if ready == 1 { "service" } else { "services" };
    let seconds = started.elapsed().as_secs_f64();
    notify(format_args!("phase6 {}: {ready} {services} ready in {seconds:.2} s\n", host::VERSION));
    notify(fleet.table());
    notify(hints(&paths, &fleet, &options));

    loop {
        let drained = tokio::select! {
            () = watch.changed() => None,
            drained = fleet.drained() => Some(drained),
            () = signals.stop() => break,
        };
        let reacting = async {
            match drained {
                None => execute::reload(&mut fleet, &paths, &watch).await,
                Some(drained) => execute::after_drain(&mut fleet, drained).await,
            }
        };
        // Starting a service can take as long as its database takes to answer; Ctrl-C does not wait for it.
        tokio::select! {
            () = reacting => {}
            () = signals.stop() => break,
        }
    }
    notify("\nstopping: finishing the requests in flight; press Ctrl-C again to stop at once");
    tokio::select! {
        is_complete = fleet.stop_all() => {
            notify(if is_complete { "stopped" } else { "stopped; requests over the time limit were aborted" });
        }
        () = signals.abort() => notify("stopped at once"),
    }
    Ok(())
}

fn check_names(only: &[String]) -> Result<(), RunError> {
    match only.iter().find(|name| Service::find(name).is_none()) {
        Some(unknown) => Err(RunError::Usage(format!("--only names {unknown}; accepted: {}", names()))),
        None => Ok(()),
    }
}

/// Returns the files to follow: the given ones, or the example, or a copy of it in the data folder.
fn paths(options: &UpOptions) -> Result<Vec<PathBuf>, RunError> {
    if !options.files.is_empty() {
        return Ok(options.files.clone());
    }
    if Path::new(EXAMPLE_PATH).is_file() {
        return Ok(vec![EXAMPLE_PATH.into()]);
    }
    let copy = options.host.data.join("fleet.yaml");
    if !copy.exists() {
        std::fs::write(&copy, EXAMPLE)
            .map_err(|error| RunError::Failed(format!("cannot write {}: {error}", copy.display())))?;
    }
    Ok(vec![copy])
}

/// Fails if a service that `--only` names has no manifest: it would be missing silently.
fn check_declared(only: &[String], manifests: &[Manifest]) -> Result<(), RunError> {
    let declared: Vec<_> = manifests.iter().map(|manifest| manifest.service.as_str()).collect();
    let missing: Vec<_> = only.iter().map(String::as_str).filter(|name| !declared.contains(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(RunError::Failed(format!(
        "--only names {}, but no document declares it; declared: {}",
        missing.join(", "),
        declared.join(", ")
    )))
}

/// Formats commands to copy, with the addresses and options of this fleet.
fn hints(paths: &[PathBuf], fleet: &Fleet, options: &UpOptions) -> String {
    let files: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let key = if fleet.are_keys_required() { " -H 'X-API-Key: KEY'" } else { "" };
    let curl = |flags: &str, address: SocketAddr, path: &str| {
        let ip = host::reachable_at(address.ip());
        format!("\n  curl {flags}{key} http://{}{path}", SocketAddr::new(ip, address.port()))
    };
    let web = fleet.address_of("web").map(|address| curl("-s", address, "/system/status"));
    let budget = fleet.address_of("budget").map(|address| curl("-si", address, "/api/v1/budget"));
    let mut commands = web.into_iter().chain(budget).collect::<String>();
    if commands.is_empty() {
        commands =
            fleet.any_address().map_or_else(String::new, |address| curl("-s", address, "/api/v1/status"));
    }
    let mut status = vec![program(), "status".to_owned()];
    if options.base_port != BASE_PORT {
        status.push(format!("--base-port {}", options.base_port));
    }
    let bind = host::reachable_at(options.host.bind);
    if bind != Ipv4Addr::LOCALHOST {
        status.push(format!("--bind {bind}"));
    }
    let running = fleet.services();
    if running.len() < SERVICES.len() {
        status.push(format!("--only {}", running.join(",")));
    }
    let status = status.join(" ");
    format!(
        "\nFollowing {}: edit it and save. Ctrl-C stops. Try in another terminal:\n{commands}\n  {status}\n",
        files.join(", ")
    )
}

/// Returns the path by which this program was called, quoted for a shell.
fn program() -> String {
    let called = std::env::args_os().next();
    let called = called.map_or_else(|| "phase6".into(), |called| called.to_string_lossy().into_owned());
    let is_plain = |c: char| c.is_alphanumeric() || "/._-".contains(c);
    if called.chars().all(is_plain) { called } else { format!("'{}'", called.replace('\'', r"'\''")) }
}
