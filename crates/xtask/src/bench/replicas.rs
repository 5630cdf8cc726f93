//! Ten replicas that share limits and cached responses through one real Redis.

use std::process::Stdio;

use serde_json::Value;

use super::{Effort, Row};
use crate::{run::cargo, servers};

pub(super) fn run(effort: Effort) -> Result<Vec<Row>, String> {
    let redis = servers::redis()?;
    let limits = Figures::of("shared_limits", &redis.url, effort)?;
    let cache = Figures::of("shared_cache", &redis.url, effort)?;
    let [within, double, skewed, flood] =
        ["within", "double", "skewed", "flood"].map(|case| limits.case(case));
    let [hit, stampede, invalidation] = ["hit", "stampede", "invalidation"].map(|case| cache.case(case));
    let calls = |case: &Case<'_>| format!("{:.4} calls to Redis per decision", case.figure("trips"));
    Ok(vec![
        Row {
            subject: "Ten replicas share a limit; demand 50 times the limit",
            goal: "99 to 100.5 % of the limit admitted, at most 0.015 calls per decision",
            measured: format!("{:.1} %, {}", 100.0 * flood.figure("ofLimit"), calls(&flood)),
            details: format!("{:.0} ns per decision", flood.figure("nanoseconds")),
        },
        Row {
            subject: "Ten replicas share a limit; demand 0.8 times the limit",
            goal: "no request refused, at most 0.03 calls per decision",
            measured: format!("{} refused, {}", within.figure("refused"), calls(&within)),
            details: format!("{} requests", within.figure("admitted")),
        },
        Row {
            subject: "Ten replicas share a limit; demand twice the limit, evenly distributed; and 90 % of it at one replica",
            goal: "within -2 and +0.1 % of an oracle, at most 0.1 calls per decision",
            measured: format!(
                "{:+.2} %, {}; {:+.2} %, {}",
                100.0 * (double.figure("ofOracle") - 1.0),
                calls(&double),
                100.0 * (skewed.figure("ofOracle") - 1.0),
                calls(&skewed),
            ),
            details: "the oracle is a single bucket that decides on the same requests".to_owned(),
        },
        Row {
            subject: "Cache hit in memory, with tags and a Redis as second level",
            goal: "at most 80 ns",
            measured: format!("{:.0} ns", hit.figure("nanoseconds")),
            details: "1,000 responses".to_owned(),
        },
        Row {
            subject: "One key that is not cached, requested by 100 callers at each of ten replicas",
            goal: "one fetch, p99 at most 1.2 times its duration",
            measured: format!(
                "{} fetch, p99 {:.2} times",
                stampede.figure("fetches"),
                stampede.figure("p99")
            ),
            details: format!("p50 {:.2} times; the fetch takes 100 ms", stampede.figure("p50")),
        },
        Row {
            subject: "Time from the invalidation of a tag until none of ten replicas serves the response",
            goal: "p99 at most 2 ms",
            measured: format!("p99 {:.2} ms", invalidation.figure("p99")),
            details: format!("p50 {:.2} ms", invalidation.figure("p50")),
        },
    ])
}

/// Lines that a benchmark printed.
struct Figures(Vec<Value>);

struct Case<'a>(Option<&'a Value>);

impl Figures {
    /// Runs a benchmark that needs Redis.
    fn of(bench: &str, redis: &str, effort: Effort) -> Result<Self, String> {
        let command = if effort == Effort::Measure { "bench" } else { "test" };
        let mut command = cargo(&[command, "--locked", "--workspace", "--bench", bench]);
        command.env("PHASE6_TEST_REDIS", redis).stdout(Stdio::piped());
        let output = command.output().map_err(|error| format!("failed to start cargo: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        if !output.status.success() {
            return Err(format!("the benchmark {bench} failed: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(Self(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
    }

    fn case(&self, name: &str) -> Case<'_> {
        Case(self.0.iter().find(|line| line["case"] == name))
    }
}

impl Case<'_> {
    /// Returns a figure of the case; not a number if it is missing.
    fn figure(&self, name: &str) -> f64 {
        self.0.and_then(|line| line[name].as_f64()).unwrap_or(f64::NAN)
    }
}
