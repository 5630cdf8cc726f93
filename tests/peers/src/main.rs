//! Measures other libraries and Phase6 in one run: each contender in turn, round by round, so that a slow minute
//! of the machine affects all of them. Prints one JSON line per contender: the median of the rounds, the lowest
//! and the highest, in nanoseconds per operation.
//!
//! * A decision about one of 100,000 callers known by name: `governor`, `limitador` in memory.
//! * A decision about a limit that replicas share: `limitador` with Redis, called each time or cached.
//! * A hit among 1,000 responses: `moka`, `quick_cache`, `foyer`.
//! * A request that is not sampled: the tracer of the OpenTelemetry SDK, `tracing-opentelemetry`.
//!
//! `phase6-peers ROUNDS`. `PHASE6_TEST_REDIS` is the URL of a server; without it the comparison that needs one
//! is left out.

mod caches;
mod limits;
mod shared;
mod traces;

use std::time::Instant;

use serde_json::json;

/// A library that is measured.
pub struct Contender<'a> {
    name: &'static str,
    /// Runs a round and returns its number of operations.
    round: Box<dyn FnMut() -> u64 + 'a>,
}

impl<'a> Contender<'a> {
    /// Creates a contender; `round` runs its operation many times and returns how many.
    pub fn new(name: &'static str, round: impl FnMut() -> u64 + 'a) -> Self {
        Self { name, round: Box::new(round) }
    }
}

/// Measures the contenders in turn, and prints a line for each.
pub fn compare(comparison: &str, rounds: usize, mut contenders: Vec<Contender<'_>>) {
    let mut nanoseconds = vec![Vec::new(); contenders.len()];
    // The first round fills tables and caches.
    for round in 0..=rounds {
        for (contender, figures) in contenders.iter_mut().zip(&mut nanoseconds) {
            let start = Instant::now();
            let operations = (contender.round)();
            let each = start.elapsed().as_nanos() as f64 / operations as f64;
            if round > 0 {
                figures.push(each);
            }
        }
    }
    for (contender, mut figures) in contenders.iter().zip(nanoseconds) {
        figures.sort_by(f64::total_cmp);
        let (low, median, high) = (figures[0], figures[figures.len() / 2], figures[figures.len() - 1]);
        let (name, ns) = (contender.name, median);
        println!(
            "{}",
            json!({"comparison": comparison, "contender": name, "ns": ns, "low": low, "high": high})
        );
    }
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    limits::run(rounds);
    if let Ok(redis) = std::env::var("PHASE6_TEST_REDIS") {
        shared::run(rounds, &redis);
    }
    caches::run(rounds);
    traces::run(rounds);
}
