//! Ten replicas over one real Redis: limits, and the cache.

use std::process::Stdio;

use serde_json::Value;

use super::{Effort, Row};
use crate::{run::cargo, servers};

pub(super) fn run(effort: Effort) -> Result<Vec<Row>, String> {
    let redis = servers::redis()?;
    let limits = Figures::of("phase6-ratelimit", &redis.url, effort)?;
    let cache = Figures::of("phase6-cache", &redis.url, effort)?;
    let [within, double, skewed, flood] =
        ["within", "double", "skewed", "flood"].map(|case| limits.case(case));
    let [hit, stampede, invalidation] = ["hit", "stampede", "invalidation"].map(|case| cache.case(case));
    let trips = |case: &Case<'_>| format!("{:.4} calls to Redis for a decision", case.figure("trips"));
    Ok(vec![
        Row {
            what: "Ten replicas share a limit, 50 times the demand",
            goal: "99 to 100.5 % of the limit, at most 0.015 calls for a decision",
            measured: format!("{:.1} %, {}", 100.0 * flood.figure("ofLimit"), trips(&flood)),
            details: format!("{:.0} ns for a decision", flood.figure("nanoseconds")),
        },
        Row {
            what: "The same, 0.8 times the demand",
            goal: "nobody refused, at most 0.03 calls",
            measured: format!("{} refused, {}", within.figure("refused"), trips(&within)),
            details: format!("{} requests", within.figure("admitted")),
        },
        Row {
            what: "The same, twice the demand, evenly; and 90 % of it at one replica",
            goal: "within -2 and +0.1 % of an oracle, at most 0.1 calls",
            measured: format!(
                "{:+.2} %, {}; {:+.2} %, {}",
                100.0 * (double.figure("ofOracle") - 1.0),
                trips(&double),
                100.0 * (skewed.figure("ofOracle") - 1.0),
                trips(&skewed),
            ),
            details: "the oracle is one bucket that decides about the same requests".to_owned(),
        },
        Row {
            what: "A cache hit in memory, with tags, and Redis behind",
            goal: "at most 80 ns",
            measured: format!("{:.0} ns", hit.figure("nanoseconds")),
            details: "1,000 answers".to_owned(),
        },
        Row {
            what: "Ten replicas, 100 callers at each, one key that nobody holds",
            goal: "one fetch, p99 at most 1.2 of what it takes",
            measured: format!("{} fetch, p99 {:.2}", stampede.figure("fetches"), stampede.figure("p99")),
            details: format!("p50 {:.2}; the fetch takes 100 ms", stampede.figure("p50")),
        },
        Row {
            what: "How long an answer lives on after all were told to forget its tag, ten replicas",
            goal: "p99 at most 2 ms",
            measured: format!("p99 {:.2} ms", invalidation.figure("p99")),
            details: format!("p50 {:.2} ms", invalidation.figure("p50")),
        },
    ])
}

/// What a benchmark printed.
struct Figures(Vec<Value>);

struct Case<'a>(Option<&'a Value>);

impl Figures {
    fn of(package: &str, redis: &str, effort: Effort) -> Result<Self, String> {
        let how = if effort == Effort::Measure { "bench" } else { "test" };
        let mut command = cargo(&[how, "--locked", "--package", package, "--bench", "replicas"]);
        command.env("PHASE6_TEST_REDIS", redis).stdout(Stdio::piped());
        let output = command.output().map_err(|error| format!("cannot start cargo: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        print!("{said}");
        if !output.status.success() {
            return Err(format!(
                "the benchmark of {package} failed: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        Ok(Self(said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
    }

    fn case(&self, name: &str) -> Case<'_> {
        Case(self.0.iter().find(|line| line["case"] == name))
    }
}

impl Case<'_> {
    /// A figure of the case; not a number if it is missing.
    fn figure(&self, name: &str) -> f64 {
        self.0.and_then(|line| line[name].as_f64()).unwrap_or(f64::NAN)
    }
}
