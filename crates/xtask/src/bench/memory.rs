//! What the whole fleet holds in memory while nothing happens.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use super::{Effort, Row, http::tempfolder};
use crate::run::root;

/// Ports from here on, out of the way of a fleet that runs.
const BASE: &str = "23000";
/// After so long everything that happens at start is done.
const SETTLE: Duration = Duration::from_secs(10);

pub(super) fn run(effort: Effort) -> Result<Row, String> {
    let folder = tempfolder()?;
    let mut fleet = Command::new(effort.programs().join("phase6"));
    fleet.arg("up").arg("-f").arg(root().join("crds/examples/fleet.yaml"));
    fleet.arg("--data").arg(&folder).args(["--base-port", BASE]);
    fleet.stdout(Stdio::null()).stderr(Stdio::null());
    let mut fleet = fleet.spawn().map_err(|error| format!("cannot start phase6: {error}"))?;
    std::thread::sleep(if effort == Effort::Measure { SETTLE } else { SETTLE / 10 });
    let status = std::fs::read_to_string(format!("/proc/{}/status", fleet.id()));
    let _ = Command::new("kill").arg(fleet.id().to_string()).status();
    let _ = fleet.wait();
    let _ = std::fs::remove_dir_all(folder);
    let kilobytes: f64 = status
        .map_err(|error| error.to_string())?
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or("the fleet did not run")?;
    Ok(Row {
        what: "Resident memory of the whole idle fleet",
        goal: "at most 60 MB",
        measured: format!("{:.0} MB", kilobytes * 1024.0 / 1e6),
        details: "eight services in one process, `phase6 up`".to_owned(),
    })
}
