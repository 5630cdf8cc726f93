//! Latency, throughput and error rate over the last minute, of all requests.
//!
//! Threads count into their own windows, so recording never contends. Each window is a ring of one-second
//! cells for counts and of ten-second cells for latency histograms. The histograms are log-linear with eight
//! buckets per power of two, so a reported percentile is at most one eighth above the true one. Memory is
//! fixed. Time is an argument; no clock is read.

use std::time::Duration;

use serde::Serialize;

use crate::per_thread::{PerThread, SingleWriterCounter};

/// Number of one-second cells: 60 complete seconds and the current one.
const COUNT_CELLS: usize = 61;
/// Number of ten-second cells: six complete ones and the current one.
const LATENCY_CELLS: usize = 7;
/// Number of histogram buckets: 8 per power of two, from 1 to 2^28 microseconds (268 s).
const BUCKETS: usize = 28 * 8;

/// Statistics over the last minute. Latencies are in milliseconds; every value is 0 without requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficStats {
    /// Mean latency in milliseconds.
    pub avg_latency: f64,
    /// Median latency in milliseconds.
    pub p50_latency: f64,
    /// 95th percentile of the latency in milliseconds.
    pub p95_latency: f64,
    /// 99th percentile of the latency in milliseconds.
    pub p99_latency: f64,
    /// Requests per second.
    pub throughput: f64,
    /// Fraction of requests with a 5xx response, from 0 to 1.
    pub error_rate: f64,
}

/// Requests of the last minute, counted by many threads.
#[derive(Debug, Default)]
pub struct TrafficWindow {
    threads: PerThread<ThreadWindow>,
}

/// Requests of the last minute that one thread counted.
#[derive(Debug)]
struct ThreadWindow {
    counts: [CountCell; COUNT_CELLS],
    latencies: [LatencyCell; LATENCY_CELLS],
    /// End of the first request, plus 1 ns; 0 if there was none.
    first_end_ns: SingleWriterCounter,
}

/// Counts of one second.
#[derive(Debug, Default)]
struct CountCell {
    /// Number of the second since the epoch of the clock.
    second: SingleWriterCounter,
    requests: SingleWriterCounter,
    errors: SingleWriterCounter,
    latency_sum_us: SingleWriterCounter,
}

/// Latency histogram of ten seconds.
#[derive(Debug)]
struct LatencyCell {
    /// Number of the ten-second interval since the epoch of the clock.
    interval: SingleWriterCounter,
    buckets: [SingleWriterCounter; BUCKETS],
}

impl TrafficWindow {
    /// Counts a request that ended at `now_ns` (nanoseconds).
    pub fn record(&self, latency: Duration, failed: bool, now_ns: u64) {
        self.threads.local().record(latency, failed, now_ns);
    }

    /// Returns the statistics of the minute before `now_ns` (nanoseconds).
    pub fn stats(&self, now_ns: u64) -> TrafficStats {
        let now = now_ns / 1_000_000_000;
        let (mut requests, mut errors, mut latency_sum_us) = (0_u64, 0_u64, 0_u64);
        let mut buckets = [0_u64; BUCKETS];
        let mut first_end_ns = u64::MAX;
        for window in self.threads.iter() {
            let is_recent = |second: u64| second <= now && now - second < 60;
            for cell in window.counts.iter().filter(|cell| is_recent(cell.second.load_acquire())) {
                requests += cell.requests.get();
                errors += cell.errors.get();
                latency_sum_us += cell.latency_sum_us.get();
            }
            let is_recent =
                |interval: u64| interval <= now / 10 && now / 10 - interval < LATENCY_CELLS as u64;
            for cell in window.latencies.iter().filter(|cell| is_recent(cell.interval.load_acquire())) {
                buckets.iter_mut().zip(&cell.buckets).for_each(|(sum, count)| *sum += count.get());
            }
            // 0 wraps to the maximum: a window without requests does not lower the minimum.
            first_end_ns = first_end_ns.min(window.first_end_ns.get().wrapping_sub(1));
        }
        if requests == 0 {
            return TrafficStats::default();
        }
        // A service younger than a minute is measured over its lifetime, but over one second at least.
        let seconds = (now_ns.saturating_sub(first_end_ns) as f64 / 1e9).clamp(1.0, 60.0);
        TrafficStats {
            avg_latency: latency_sum_us as f64 / requests as f64 / 1e3,
            p50_latency: percentile_ms(&buckets, 0.50),
            p95_latency: percentile_ms(&buckets, 0.95),
            p99_latency: percentile_ms(&buckets, 0.99),
            throughput: requests as f64 / seconds,
            error_rate: errors as f64 / requests as f64,
        }
    }
}

impl Default for ThreadWindow {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| CountCell::default()),
            latencies: std::array::from_fn(|_| LatencyCell {
                interval: SingleWriterCounter::default(),
                buckets: std::array::from_fn(|_| SingleWriterCounter::default()),
            }),
            first_end_ns: SingleWriterCounter::default(),
        }
    }
}

impl ThreadWindow {
    fn record(&self, latency: Duration, failed: bool, now_ns: u64) {
        if self.first_end_ns.get() == 0 {
            self.first_end_ns.set(now_ns + 1);
        }
        let latency_us = latency.as_micros() as u64;
        let second = now_ns / 1_000_000_000;
        let cell = &self.counts[(second % COUNT_CELLS as u64) as usize];
        if cell.second.get() != second {
            // Reset before the new number is published: under the old one, which has left the window, no
            // reader counts the cell.
            for count in [&cell.requests, &cell.errors, &cell.latency_sum_us] {
                count.set(0);
            }
            cell.second.store_release(second);
        }
        cell.requests.add(1);
        cell.errors.add(u64::from(failed));
        cell.latency_sum_us.add(latency_us);
        let interval = second / 10;
        let cell = &self.latencies[(interval % LATENCY_CELLS as u64) as usize];
        if cell.interval.get() != interval {
            cell.buckets.iter().for_each(|count| count.set(0));
            cell.interval.store_release(interval);
        }
        cell.buckets[bucket_index(latency_us)].add(1);
    }
}

/// Returns the histogram bucket of a latency in microseconds.
fn bucket_index(latency_us: u64) -> usize {
    let us = latency_us.max(1);
    let power = us.ilog2();
    let eighth = if power >= 3 { us >> (power - 3) & 7 } else { us << (3 - power) & 7 };
    ((power * 8) as usize + eighth as usize).min(BUCKETS - 1)
}

/// Returns the exclusive upper bound of a histogram bucket in microseconds.
fn bucket_upper_bound(index: usize) -> f64 {
    let (power, eighth) = (index / 8, index % 8);
    (1_u64 << power) as f64 * (1.0 + (eighth as f64 + 1.0) / 8.0)
}

/// Returns the latency in milliseconds that the fraction `rank` of all requests does not exceed.
fn percentile_ms(buckets: &[u64; BUCKETS], rank: f64) -> f64 {
    let total: u64 = buckets.iter().sum();
    let wanted = (rank * total as f64).ceil() as u64;
    let mut seen = 0;
    for (index, count) in buckets.iter().enumerate() {
        seen += count;
        if seen >= wanted && seen > 0 {
            return bucket_upper_bound(index) / 1e3;
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
    fn stats_without_requests_are_all_zero() {
        assert_eq!(TrafficWindow::default().stats(5 * SECOND), TrafficStats::default());
    }

    /// The original system divided errors by the number of operation names, always reported a throughput of
    /// 0, and had no percentiles.
    #[test]
    fn stats_match_the_recorded_requests() {
        let window = TrafficWindow::default();
        for i in 0..600_u64 {
            let latency = Duration::from_millis(if i % 100 == 99 { 800 } else { 10 });
            window.record(latency, i % 4 == 0, SECOND * 100 + i * SECOND / 10);
        }
        let stats = window.stats(SECOND * 160 - 1);
        assert!((stats.throughput - 10.0).abs() < 0.2, "{stats:?}");
        assert!((stats.error_rate - 0.25).abs() < 0.01, "{stats:?}");
        assert!((stats.avg_latency - 17.9).abs() < 0.2, "{stats:?}");
        assert!((10.0..=11.3).contains(&stats.p50_latency), "{stats:?}");
        assert!((10.0..=11.3).contains(&stats.p95_latency), "{stats:?}");
    }

    #[test]
    fn stats_of_several_threads_equal_those_of_one() {
        let (many_threads, one_thread) = (TrafficWindow::default(), TrafficWindow::default());
        let record_all = |window: &TrafficWindow, thread: u64| {
            for i in 0..100 {
                let latency = Duration::from_millis(i % 7 + 1);
                window.record(latency, i % 10 == 0, (100 + thread * 20) * SECOND + i * SECOND / 10);
            }
        };
        // No thread ends before all have recorded: the next one would continue its window, at earlier times.
        let all_have_recorded = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (window, record_all, all_have_recorded) =
                    (&many_threads, &record_all, &all_have_recorded);
                scope.spawn(move || {
                    record_all(window, thread);
                    all_have_recorded.wait();
                });
            }
        });
        for thread in 0..4 {
            record_all(&one_thread, thread);
        }
        // No earlier than the last request: a window has no cells for more than a minute.
        for at in [170, 171, 200] {
            assert_eq!(many_threads.stats(at * SECOND), one_thread.stats(at * SECOND), "at {at} s");
        }
    }

    #[test]
    fn requests_older_than_a_minute_are_dropped() {
        let window = TrafficWindow::default();
        window.record(Duration::from_secs(5), true, 10 * SECOND);
        assert!(window.stats(69 * SECOND).error_rate > 0.0);
        assert_eq!(window.stats(71 * SECOND), TrafficStats::default());
    }

    #[test]
    fn throughput_of_a_young_service_is_measured_over_its_lifetime() {
        let window = TrafficWindow::default();
        for i in 0..100 {
            window.record(Duration::from_millis(1), false, 1_000 * SECOND + i * SECOND / 50);
        }
        let stats = window.stats(1_002 * SECOND);
        assert!((stats.throughput - 50.0).abs() < 1.0, "{stats:?}");
    }

    proptest! {
        #[test]
        fn the_upper_bound_of_a_bucket_is_at_most_an_eighth_above_its_values(us in 1..134_000_000_u64) {
            let bound = bucket_upper_bound(bucket_index(us));
            prop_assert!(bound > us as f64 && bound <= us as f64 * 1.125 + 1.0, "{us} {bound}");
        }
    }
}
