//! Latency, throughput and error rate of the last minute, over all requests.
//!
//! [`Traffic`] is what threads share: each counts in a part of its own, so that none waits for another.
//!
//! A ring of one-second cells. Latencies go into log-linear buckets, eight to each power of two,
//! so a percentile is at most an eighth above the true value. Memory is fixed.

use std::time::Duration;

use serde::Serialize;

use crate::count::{Count, Parts};

/// Cells of the ring: a minute and the second that is running.
const CELLS: usize = 61;
/// Buckets: 8 for each power of two from 1 us up to 2^27 us (134 s).
const BUCKETS: usize = 28 * 8;
/// Latencies are kept in six slots of ten seconds and the one that is running.
const SLOTS: usize = 7;

/// The requests of the last minute that one thread counted.
#[derive(Debug)]
struct Window {
    cells: [Cell; CELLS],
    slots: [Slot; SLOTS],
    /// When the first one ended, plus one; 0: there was none.
    started_ns: Count,
}

#[derive(Debug, Default)]
struct Cell {
    second: Count,
    requests: Count,
    errors: Count,
    total_us: Count,
}

#[derive(Debug)]
struct Slot {
    number: Count,
    buckets: [Count; BUCKETS],
}

/// The figures of a window. Latencies are milliseconds; all are 0 without requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Mean latency.
    pub avg_latency: f64,
    /// Half of the requests took at most this long.
    pub p50_latency: f64,
    /// 95 of 100 requests took at most this long.
    pub p95_latency: f64,
    /// 99 of 100 requests took at most this long.
    pub p99_latency: f64,
    /// Requests per second.
    pub throughput: f64,
    /// Share of requests answered with 5xx, from 0 to 1.
    pub error_rate: f64,
}

/// The requests of the last minute, counted by many threads.
#[derive(Debug, Default)]
pub struct Traffic {
    parts: Parts<Window>,
}

impl Traffic {
    /// Counts a request that ended at `now_ns`.
    pub fn record(&self, latency: Duration, failed: bool, now_ns: u64) {
        self.parts.mine().record(latency, failed, now_ns);
    }

    /// The figures of the minute before `now_ns`.
    pub fn figures(&self, now_ns: u64) -> Figures {
        figures(self.parts.all(), now_ns)
    }
}

impl Default for Window {
    fn default() -> Self {
        Self {
            cells: std::array::from_fn(|_| Cell::default()),
            slots: std::array::from_fn(|_| Slot {
                number: Count::default(),
                buckets: std::array::from_fn(|_| Count::default()),
            }),
            started_ns: Count::default(),
        }
    }
}

impl Window {
    fn record(&self, latency: Duration, failed: bool, now_ns: u64) {
        if self.started_ns.get() == 0 {
            self.started_ns.set(now_ns + 1);
        }
        let us = latency.as_micros() as u64;
        let second = now_ns / 1_000_000_000;
        let cell = &self.cells[(second % CELLS as u64) as usize];
        if cell.second.get() != second {
            // Emptied while it still has its old number, under which nobody counts it any more.
            for count in [&cell.requests, &cell.errors, &cell.total_us] {
                count.set(0);
            }
            cell.second.announce(second);
        }
        cell.requests.add(1);
        cell.errors.add(u64::from(failed));
        cell.total_us.add(us);
        let number = second / 10;
        let slot = &self.slots[(number % SLOTS as u64) as usize];
        if slot.number.get() != number {
            slot.buckets.iter().for_each(|count| count.set(0));
            slot.number.announce(number);
        }
        slot.buckets[bucket(us)].add(1);
    }
}

/// The figures of the minute before `now_ns`, of all windows together.
fn figures<'a>(windows: impl Iterator<Item = &'a Window>, now_ns: u64) -> Figures {
    let now = now_ns / 1_000_000_000;
    let (mut requests, mut errors, mut total_us) = (0_u64, 0_u64, 0_u64);
    let mut buckets = [0_u64; BUCKETS];
    let mut started_ns = u64::MAX;
    for window in windows {
        let recent = |second: u64| second <= now && now - second < 60;
        for cell in window.cells.iter().filter(|cell| recent(cell.second.noticed())) {
            requests += cell.requests.get();
            errors += cell.errors.get();
            total_us += cell.total_us.get();
        }
        let recent = |number: u64| number <= now / 10 && now / 10 - number < SLOTS as u64;
        for slot in window.slots.iter().filter(|slot| recent(slot.number.noticed())) {
            buckets.iter_mut().zip(&slot.buckets).for_each(|(sum, count)| *sum += count.get());
        }
        started_ns = started_ns.min(window.started_ns.get().wrapping_sub(1));
    }
    if requests == 0 {
        return Figures::default();
    }
    // A service that is younger than a minute is measured over its life, at least a second.
    let seconds = (now_ns.saturating_sub(started_ns) as f64 / 1e9).clamp(1.0, 60.0);
    Figures {
        avg_latency: total_us as f64 / requests as f64 / 1e3,
        p50_latency: percentile(&buckets, 0.50),
        p95_latency: percentile(&buckets, 0.95),
        p99_latency: percentile(&buckets, 0.99),
        throughput: requests as f64 / seconds,
        error_rate: errors as f64 / requests as f64,
    }
}

/// The bucket of a latency in microseconds.
fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let power = us.ilog2();
    let eighth = if power >= 3 { us >> (power - 3) & 7 } else { us << (3 - power) & 7 };
    ((power * 8) as usize + eighth as usize).min(BUCKETS - 1)
}

/// The upper edge of a bucket, in microseconds.
fn upper_edge(bucket: usize) -> f64 {
    let (power, eighth) = (bucket / 8, bucket % 8);
    (1_u64 << power) as f64 * (1.0 + (eighth as f64 + 1.0) / 8.0)
}

fn percentile(buckets: &[u64; BUCKETS], share: f64) -> f64 {
    let total: u64 = buckets.iter().sum();
    let wanted = (share * total as f64).ceil() as u64;
    let mut seen = 0;
    for (i, count) in buckets.iter().enumerate() {
        seen += count;
        if seen >= wanted && seen > 0 {
            return upper_edge(i) / 1e3;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn nothing_seen_is_all_zero() {
        assert_eq!(Traffic::default().figures(5 * SECOND), Figures::default());
    }

    /// The original divided errors by the number of operation names and its throughput was always
    /// zero; percentiles did not exist.
    #[test]
    fn figures_are_what_they_are_called() {
        let window = Traffic::default();
        for i in 0..600_u64 {
            let latency = Duration::from_millis(if i % 100 == 99 { 800 } else { 10 });
            window.record(latency, i % 4 == 0, SECOND * 100 + i * SECOND / 10);
        }
        let figures = window.figures(SECOND * 160 - 1);
        assert!((figures.throughput - 10.0).abs() < 0.2, "{figures:?}");
        assert!((figures.error_rate - 0.25).abs() < 0.01, "{figures:?}");
        assert!((figures.avg_latency - 17.9).abs() < 0.2, "{figures:?}");
        assert!((10.0..=11.3).contains(&figures.p50_latency), "{figures:?}");
        assert!((10.0..=11.3).contains(&figures.p95_latency), "{figures:?}");
    }

    #[test]
    fn what_threads_count_apart_is_one_sum() {
        let (traffic, one) = (Traffic::default(), Traffic::default());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let traffic = &traffic;
                scope.spawn(move || {
                    for i in 0..100 {
                        let took = Duration::from_millis(i % 7 + 1);
                        traffic.record(took, i % 10 == 0, (100 + thread * 20) * SECOND + i * SECOND / 10);
                    }
                });
            }
        });
        for thread in 0..4 {
            for i in 0..100 {
                let took = Duration::from_millis(i % 7 + 1);
                one.record(took, i % 10 == 0, (100 + thread * 20) * SECOND + i * SECOND / 10);
            }
        }
        for at in [165, 171, 200] {
            assert_eq!(traffic.figures(at * SECOND), one.figures(at * SECOND), "at {at} s");
        }
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let window = Traffic::default();
        window.record(Duration::from_secs(5), true, 10 * SECOND);
        assert!(window.figures(69 * SECOND).error_rate > 0.0);
        assert_eq!(window.figures(71 * SECOND), Figures::default());
    }

    #[test]
    fn a_young_service_is_measured_over_its_life() {
        let window = Traffic::default();
        for i in 0..100 {
            window.record(Duration::from_millis(1), false, 1_000 * SECOND + i * SECOND / 50);
        }
        let figures = window.figures(1_002 * SECOND);
        assert!((figures.throughput - 50.0).abs() < 1.0, "{figures:?}");
    }

    proptest! {
        #[test]
        fn a_bucket_is_at_most_an_eighth_above_its_values(us in 1..134_000_000_u64) {
            let edge = upper_edge(bucket(us));
            prop_assert!(edge > us as f64 && edge <= us as f64 * 1.125 + 1.0, "{us} {edge}");
        }
    }
}
