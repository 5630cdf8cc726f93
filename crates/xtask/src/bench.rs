//! `cargo xtask bench`: runs the benchmarks and writes the table in `docs/performance.md`.
//!
//! Compared programs are measured in turn, round by round, so that a slow minute of the machine affects all of
//! them. Every ratio is of two figures of one run.
//!
//! `--smoke` runs the same steps with debug builds, once and briefly, and writes nothing: it shows that the
//! benchmarks run. Its figures have no meaning.

mod cores;
mod http;
mod memory;
mod peers;
mod replicas;

use std::{fmt::Write, path::PathBuf};

use crate::run::{cargo, root, succeed};

/// One row of the table.
pub(crate) struct Row {
    subject: &'static str,
    goal: &'static str,
    measured: String,
    details: String,
}

/// Lines of the document between which the table stands.
const BEGIN: &str = "<!-- measured by cargo xtask bench -->\n";
const END: &str = "<!-- end of the measured table -->\n";

/// Effort of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Long enough for reliable figures, with release builds.
    Measure,
    /// One short round with debug builds, which only shows that the benchmarks run.
    Smoke,
}

impl Effort {
    /// Folder of the programs to measure.
    fn programs(self) -> PathBuf {
        root().join("target").join(if self == Self::Measure { "release" } else { "debug" })
    }
}

/// Runs every benchmark and, unless it is a smoke run, writes the table.
pub(crate) fn run(effort: Effort) -> Result<(), String> {
    crate::servers::provide("wrk", "wrk")?;
    crate::servers::provide("nginx", "nginx-light")?;
    let mut build = cargo(&["build", "--locked", "--workspace", "--bins"]);
    if effort == Effort::Measure {
        build.arg("--release");
    }
    succeed(&mut build)?;
    let mut rows = peers::run(effort)?;
    rows.extend(cores::run(effort)?);
    rows.extend(replicas::run(effort)?);
    rows.extend(http::run(effort)?);
    rows.push(memory::run(effort)?);

    let mut table = format!("{}\n\n| Subject | Goal | Measured | Details |\n|---|---|---|---|\n", machine());
    for Row { subject, goal, measured, details } in rows {
        let _ = writeln!(table, "| {subject} | {goal} | {measured} | {details} |");
    }
    println!("\n{table}");
    if effort == Effort::Smoke {
        return Ok(());
    }
    let path = root().join("docs/performance.md");
    let document = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (before, rest) =
        document.split_once(BEGIN).ok_or("docs/performance.md has no marker before the table")?;
    let (_, after) = rest.split_once(END).ok_or("docs/performance.md has no marker after the table")?;
    std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}"))
        .map_err(|error| error.to_string())?;
    println!("wrote {}", path.display());
    Ok(())
}

/// Returns the processor, the number of cores and the kernel of this machine.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, Linux {}.", kernel.trim())
}

/// Returns the median; not a number if there are no values.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
