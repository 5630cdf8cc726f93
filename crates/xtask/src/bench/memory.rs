//! Resident memory of the whole fleet without requests.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use super::{Effort, Row, http::tempfolder};
use crate::run::root;

/// Base port, different from the default so that a running fleet does not interfere.
const BASE_PORT: &str = "23000";
/// Time after which everything that happens at the start is done.
const START_TIME: Duration = Duration::from_secs(10);

pub(super) fn run(effort: Effort) -> Result<Row, String> {
    let folder = tempfolder()?;
    let mut fleet = Command::new(effort.programs().join("phase6"));
    fleet.arg("up").arg("-f").arg(root().join("crds/examples/fleet.yaml"));
    fleet.arg("--data").arg(&folder).args(["--base-port", BASE_PORT]);
    fleet.stdout(Stdio::null()).stderr(Stdio::null());
    let mut fleet = fleet.spawn().map_err(|error| format!("failed to start phase6: {error}"))?;
    std::thread::sleep(if effort == Effort::Measure { START_TIME } else { START_TIME / 10 });
    let status = std::fs::read_to_string(format!("/proc/{}/status", fleet.id()));
    let _ = Command::new("kill").arg(fleet.id().to_string()).status();
    let _ = fleet.wait();
    let _ = std::fs::remove_dir_all(folder);
    let kilobytes: f64 = status
        .map_err(|error| error.to_string())?
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .ok_or("the fleet exited at its start")?;
    Ok(Row {
        subject: "Resident memory of an idle fleet of eight services",
        goal: "at most 60 MB",
        measured: format!("{:.0} MB", kilobytes * 1024.0 / 1e6),
        details: "all services in one process, `phase6 up`".to_owned(),
    })
}
