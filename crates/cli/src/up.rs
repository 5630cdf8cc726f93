//! `phase6 up`: the whole fleet in one process, obeying its file while it runs.

mod fleet;
mod reload;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use phase6_chassis::FileWatch;

use self::{fleet::Fleet, reload::Change};
use crate::{
    args::Up,
    ending::Ending,
    files, log, running,
    services::{ALL, names},
    stopping::Stopping,
};

/// The example fleet, for who has no file yet.
const EXAMPLE: &str = include_str!("../../../crds/examples/fleet.yaml");
const EXAMPLE_PATH: &str = "crds/examples/fleet.yaml";

/// Tells the person at the terminal.
#[allow(clippy::print_stdout, reason = "the session at the terminal is what the command is for")]
pub(crate) fn say(text: impl std::fmt::Display) {
    println!("{text}");
    let _ = std::io::stdout().flush();
}

pub(crate) async fn run(arguments: Up) -> Result<(), Ending> {
    let started = Instant::now();
    log::begin(arguments.common.log);
    check(&arguments)?;
    let host = running::host(&arguments.common, fleet::peers(&arguments))?;
    let paths = paths(&arguments)?;
    let documents = files::load(&paths).map_err(|faults| Ending::Findings(files::lines(&faults)))?;

    let mut stopping = Stopping::listen()?;
    let mut watch = FileWatch::new(&paths);
    let mut fleet = Fleet::new(host, &arguments);
    let starting = async {
        fleet.start_all(documents).await?;
        fleet.wait_until_answering().await
    };
    let answering = tokio::select! {
        answering = starting => answering?,
        () = stopping.asked() => return Ok(()),
    };
    say(format_args!(
        "phase6 {}: {answering} services answer {:.2} s after the start\n",
        running::VERSION,
        started.elapsed().as_secs_f64()
    ));
    say(fleet.table());
    say(hints(&paths, &fleet, &arguments));

    loop {
        tokio::select! {
            () = watch.changed() => {
                for change in reload::reload(&mut fleet, &paths).await {
                    tell(&change);
                }
            }
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

fn tell(change: &Change) {
    match change {
        Change::Faults(faults) => {
            let count = faults.len();
            let s = if count == 1 { "" } else { "s" };
            say(format_args!("{count} fault{s}; the fleet goes on under the last good policy:"));
            for fault in faults {
                say(format_args!("  {fault}"));
            }
        }
        Change::Told(line) => say(line),
    }
}

fn check(arguments: &Up) -> Result<(), Ending> {
    if arguments.redis.is_some() {
        return Err(Ending::Usage(
            "--redis is not possible yet: limits and cache are shared between the services of one machine without it"
                .into(),
        ));
    }
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

fn hints(paths: &[PathBuf], fleet: &Fleet, arguments: &Up) -> String {
    let files: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    let gateway = fleet.address_of("web").or_else(|| fleet.any_address());
    let gateway = gateway.map_or_else(String::new, |address| format!("http://{address}"));
    let budget =
        fleet.address_of("budget").map_or_else(|| gateway.clone(), |address| format!("http://{address}"));
    // As this program was called, so that the line can be copied.
    let program = std::env::args().next().unwrap_or_else(|| "phase6".to_owned());
    let port = if arguments.base_port == 3000 {
        String::new()
    } else {
        format!(" --base-port {}", arguments.base_port)
    };
    format!(
        "\nFollowing {}: edit it and save. Ctrl-C stops. Try in another terminal:\n\
         \n  curl -s {gateway}/system/status\
         \n  curl -si {budget}/api/v1/budget\
         \n  {program} status{port}\n",
        files.join(", ")
    )
}
