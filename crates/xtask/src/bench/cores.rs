//! Benchmarks of single crates, run by criterion.

use super::{Effort, Row};
use crate::run::{cargo, root, succeed};

/// Benchmarks of the cache, of telemetry and of identity.
const BENCHES: [&str; 3] = ["hit", "request", "authenticate"];

pub(super) fn run(effort: Effort) -> Result<Vec<Row>, String> {
    let command = if effort == Effort::Measure { "bench" } else { "test" };
    for bench in BENCHES {
        // With the features that a build of the workspace selects, so that nothing is built twice.
        succeed(&mut cargo(&[command, "--locked", "--workspace", "--bench", bench]))?;
    }
    if effort == Effort::Smoke {
        return Ok(vec![]);
    }
    Ok(vec![cache()?, metrics()?, telemetry()?, identity()?])
}

fn cache() -> Result<Row, String> {
    Ok(Row {
        subject: "Cache hit in memory, 10,000 responses (more than the processor's caches hold)",
        goal: "",
        measured: format!("{:.0} ns", nanoseconds("cache_hit/10000_keys")?),
        details: format!("a miss that is fetched and stored: {:.0} ns", nanoseconds("cache_miss/stored")?),
    })
}

fn metrics() -> Result<Row, String> {
    let (one, two) = (nanoseconds("metrics/one_thread")?, nanoseconds("metrics/two_threads")?);
    Ok(Row {
        subject: "Metrics of a request: series, and figures of the last minute",
        goal: "at most 10 ns, with one thread and with two",
        measured: format!("{one:.0} ns, {two:.0} ns with two threads"),
        details: format!(
            "the same series in the `prometheus` crate, with handles resolved before: {:.0} and {:.0} ns",
            nanoseconds("metrics/prometheus_one_thread")?,
            nanoseconds("metrics/prometheus_two_threads")?,
        ),
    })
}

fn telemetry() -> Result<Row, String> {
    let bare = nanoseconds("request/bare")?;
    let overhead = |name: &str| nanoseconds(&format!("request/{name}")).map(|total| total - bare);
    Ok(Row {
        subject: "Telemetry of a request in all: its metrics, the clock, `x-request-id`",
        goal: "",
        measured: format!("{:.0} ns", overhead("unsampled")?),
        details: format!(
            "{:.0} ns with a second thread on the same metrics; {:.0} ns with one in ten requests sampled and \
             exported, {:.0} ns with all of them",
            overhead("unsampled_two_threads")?,
            overhead("one_in_ten")?,
            overhead("sampled")?,
        ),
    })
}

fn identity() -> Result<Row, String> {
    let none = nanoseconds("identity/none")?;
    let key = nanoseconds("identity/key")?;
    Ok(Row {
        subject: "Identity of a request: its API key, among 10,000 that are used in turn",
        goal: "at most 100 ns",
        measured: format!("{key:.0} ns"),
        details: format!(
            "{none:.0} ns without keys; an assertion of another service: {:.0} ns, and {:.0} ns for its sender",
            nanoseconds("identity/verify")?,
            nanoseconds("identity/sign")?,
        ),
    })
}

/// Returns the median of a benchmark, from the files of criterion.
fn nanoseconds(benchmark: &str) -> Result<f64, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let path = target.join("criterion").join(benchmark).join("new/estimates.json");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let estimates: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    estimates["median"]["point_estimate"].as_f64().ok_or_else(|| format!("{benchmark} has no median"))
}
