//! The cores, by criterion.

use super::{Effort, Row};
use crate::run::{cargo, root, succeed};

pub(super) fn run(effort: Effort) -> Result<Vec<Row>, String> {
    if effort == Effort::Smoke {
        let cores = ["-p", "phase6-ratelimit", "-p", "phase6-cache", "-p", "phase6-telemetry"];
        succeed(cargo(&["test", "--locked", "--quiet", "--benches"]).args(cores))?;
        return Ok(vec![]);
    }
    succeed(&mut cargo(&["bench", "--locked", "-p", "phase6-ratelimit", "--bench", "decision"]))?;
    succeed(&mut cargo(&["bench", "--locked", "-p", "phase6-cache", "--bench", "hit"]))?;
    succeed(&mut cargo(&["bench", "--locked", "-p", "phase6-telemetry", "--bench", "request"]))?;
    let ours = nanoseconds("decision_100k_names/phase6")?;
    let governor = nanoseconds("decision_100k_names/governor")?;
    let small = nanoseconds("cache_hit/1000_keys")?;
    let large = nanoseconds("cache_hit/10000_keys")?;
    Ok(vec![
        Row {
            what: "A limiter decision, 100,000 callers known by name",
            goal: "at most 150 ns, faster than `governor` keyed",
            measured: format!("{ours:.0} ns, {:.2} times as fast", governor / ours),
            details: format!("`governor` {governor:.0} ns"),
        },
        Row {
            what: "A cache hit in memory",
            goal: "at most 150 ns",
            measured: format!("{small:.0} ns with 1,000 answers"),
            details: format!("{large:.0} ns with 10,000, which the processor's own caches do not hold"),
        },
        telemetry()?,
    ])
}

fn telemetry() -> Result<Row, String> {
    let of = |name: &str| nanoseconds(&format!("request/{name}"));
    let bare = of("bare")?;
    let adds = |name: &str| of(name).map(|all| all - bare);
    Ok(Row {
        what: "What telemetry adds to a request that is not sampled: context, figures, series",
        goal: "at most 70 ns",
        measured: format!("{:.0} ns", adds("unsampled")?),
        details: format!(
            "{:.0} ns with a second thread at the same figures; {:.0} ns where one in ten is sampled and \
             exported, {:.0} ns if all are; OpenTelemetry's own tracer takes {:.0} ns for a span that is not \
             sampled, Prometheus' own series {:.0} ns",
            adds("unsampled_two_threads")?,
            adds("one_in_ten")?,
            adds("sampled")?,
            of("opentelemetry_unsampled")?,
            of("prometheus")?,
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
