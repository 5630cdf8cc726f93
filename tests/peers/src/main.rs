//! What others do, measured beside ours in one run: each rival in turn, round by round, so that a slow minute of
//! the machine meets all. Prints one line of JSON for each: the median of the rounds, and the lowest and highest.
//!
//! * A decision about one of 100,000 callers known by name: `governor`, `limitador` in memory.
//! * A decision about a limit that replicas share: `limitador` with Redis, asked each time or cached.
//! * A hit among 1,000 answers: `moka`, `quick_cache`, `foyer`.
//! * A request that is not sampled: OpenTelemetry's own tracer, `tracing-opentelemetry`.
//!
//! `peers ROUNDS`. `PHASE6_TEST_REDIS` names a server; without it what needs one is left out.

mod caches;
mod limits;
mod shared;
mod traces;

use std::time::Instant;

use serde_json::json;

/// Somebody who does the same thing again and again.
pub struct Rival<'a> {
    name: &'static str,
    /// Does it about so often, and says how often it was.
    work: Box<dyn FnMut() -> u64 + 'a>,
}

impl<'a> Rival<'a> {
    /// `work` does it some times, and says how many.
    pub fn new(name: &'static str, work: impl FnMut() -> u64 + 'a) -> Self {
        Self { name, work: Box::new(work) }
    }
}

/// Lets all do their work, in turn.
pub fn compete(what: &str, rounds: usize, mut rivals: Vec<Rival<'_>>) {
    let mut nanoseconds = vec![Vec::new(); rivals.len()];
    // The first round fills tables and caches.
    for round in 0..=rounds {
        for (rival, seen) in rivals.iter_mut().zip(&mut nanoseconds) {
            let begun = Instant::now();
            let done = (rival.work)();
            let each = begun.elapsed().as_nanos() as f64 / done as f64;
            if round > 0 {
                seen.push(each);
            }
        }
    }
    for (rival, mut seen) in rivals.iter().zip(nanoseconds) {
        seen.sort_by(f64::total_cmp);
        let (low, median, high) = (seen[0], seen[seen.len() / 2], seen[seen.len() - 1]);
        println!("{}", json!({"what": what, "who": rival.name, "ns": median, "low": low, "high": high}));
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
