//! The request rate of one key. Pure, with an explicit clock.

/// Requests per second over about the last second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Demand {
    /// Requests per second at `last_request_ns`.
    pub(super) per_second: f64,
    /// Time of the last request, in nanoseconds.
    pub(super) last_request_ns: u64,
}

impl Demand {
    /// Counts requests that arrived since the last one, at equal intervals.
    pub(super) fn count(&mut self, requests: u32, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.last_request_ns) as f64 / 1e9;
        // Each request scales the previous count by the part of a second that has not passed, and adds one.
        // For several requests the sum of that geometric series is computed at once.
        if requests == 1 {
            self.per_second = self.per_second * (1.0 - elapsed).max(0.0) + 1.0;
        } else if requests > 1 {
            let interval = (elapsed / f64::from(requests)).min(1.0);
            let left = (1.0 - interval).powf(f64::from(requests));
            let added = if interval > 0.0 { (1.0 - left) / interval } else { f64::from(requests) };
            self.per_second = self.per_second * left + added;
        }
        self.record_request(now_ns);
    }

    /// Records the time of a request without counting it.
    pub(super) fn record_request(&mut self, now_ns: u64) {
        self.last_request_ns = self.last_request_ns.max(now_ns);
    }
}
