//! The cores, by criterion.

use super::{Effort, Row};
use crate::run::{cargo, root, succeed};

const BENCHES: [(&str, &str); 2] = [("phase6-cache", "hit"), ("phase6-telemetry", "request")];

pub(super) fn run(effort: Effort) -> Result<Vec<Row>, String> {
    let how = if effort == Effort::Measure { "bench" } else { "test" };
    for (package, bench) in BENCHES {
        succeed(&mut cargo(&[how, "--locked", "--package", package, "--bench", bench]))?;
    }
    if effort == Effort::Smoke {
        return Ok(vec![]);
    }
    Ok(vec![cache()?, metrics()?, telemetry()?])
}

fn cache() -> Result<Row, String> {
    Ok(Row {
        what: "A cache hit in memory, 10,000 answers, which the processor's own caches do not hold",
        goal: "",
        measured: format!("{:.0} ns", nanoseconds("cache_hit/10000_keys")?),
        details: format!(
            "a miss that is fetched and stored takes {:.0} ns",
            nanoseconds("cache_miss/stored")?
        ),
    })
}

fn metrics() -> Result<Row, String> {
    let (one, two) = (nanoseconds("metrics/one_thread")?, nanoseconds("metrics/two_threads")?);
    Ok(Row {
        what: "What is counted of a request: series, and figures of the last minute",
        goal: "at most 10 ns, at one and two threads",
        measured: format!("{one:.0} ns, {two:.0} ns at two threads"),
        details: format!(
            "the same series of the `prometheus` crate, its handles resolved before: {:.0} and {:.0} ns",
            nanoseconds("metrics/prometheus_one_thread")?,
            nanoseconds("metrics/prometheus_two_threads")?,
        ),
    })
}

fn telemetry() -> Result<Row, String> {
    let bare = nanoseconds("request/bare")?;
    let adds = |name: &str| nanoseconds(&format!("request/{name}")).map(|all| all - bare);
    Ok(Row {
        what: "All that telemetry adds to a request: the above, the clock, `x-request-id`",
        goal: "",
        measured: format!("{:.0} ns", adds("unsampled")?),
        details: format!(
            "{:.0} ns with a second thread at the same figures; {:.0} ns where one in ten is sampled and \
             exported, {:.0} ns if all are",
            adds("unsampled_two_threads")?,
            adds("one_in_ten")?,
            adds("sampled")?,
        ),
    })
}

/// The median that criterion found.
fn nanoseconds(benchmark: &str) -> Result<f64, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let path = target.join("criterion").join(benchmark).join("new/estimates.json");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let estimates: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    estimates["median"]["point_estimate"].as_f64().ok_or_else(|| format!("{benchmark} has no median"))
}
