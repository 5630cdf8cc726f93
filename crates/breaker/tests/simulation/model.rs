//! What a breaker has to do, told as plainly as it can be: every outcome is kept with its time, every call has a
//! name, and shares are whole numbers.

use std::{collections::BTreeSet, time::Duration};

use phase6_breaker::{Outcome, Refused};

use super::world::Rules;

/// To this a window is exact: a call counts until the quarter second in which it ended lies before the window.
const QUARTER: u64 = 250_000_000;

enum Stand {
    Closed,
    Open { since: u64 },
    HalfOpen { succeeded: u64 },
}

pub struct Model {
    /// What the clock showed last.
    clock: u64,
    /// What it went forward since the beginning.
    time: u64,
    stand: Stand,
    /// Calls under way whose outcome will count: those begun since the stand changed last.
    heard: BTreeSet<u64>,
    /// When a call ended since it closed last, and whether it failed.
    ended: Vec<(u64, bool)>,
    /// The peer asked to wait until then.
    wait: u64,
    pub calls: u64,
    pub failures: u64,
    pub rejected: u64,
}

impl Model {
    pub fn new() -> Self {
        let (clock, time, wait, calls, failures, rejected) = (0, 0, 0, 0, 0, 0);
        let (stand, heard, ended) = (Stand::Closed, BTreeSet::new(), Vec::new());
        Self { clock, time, stand, heard, ended, wait, calls, failures, rejected }
    }

    /// What the clock shows. A step back is no time.
    pub fn clock(&mut self, shows: u64) {
        self.time += shows.saturating_sub(self.clock);
        self.clock = shows;
    }

    pub fn status(&self, rules: &Rules) -> &'static str {
        match self.stand {
            Stand::Closed => "closed",
            Stand::Open { since } if self.time - since < rules.open_for.as_nanos() as u64 => "open",
            Stand::HalfOpen { succeeded } if succeeded >= rules.probes => "closed",
            Stand::Open { .. } | Stand::HalfOpen { .. } => "half-open",
        }
    }

    /// Probes that have succeeded already.
    pub fn succeeded(&self) -> u64 {
        if let Stand::HalfOpen { succeeded } = self.stand { succeeded } else { 0 }
    }

    pub fn is_throttled(&self) -> bool {
        self.time < self.wait
    }

    /// How far off the next moment is at which something changes by itself.
    pub fn next(&self, rules: &Rules) -> Duration {
        let moment = match self.stand {
            _ if self.is_throttled() => self.wait,
            Stand::Open { since } => since + rules.open_for.as_nanos() as u64,
            _ => match self.ended.iter().find(|(at, _)| *at >= self.oldest(rules)) {
                Some((at, _)) => (at / QUARTER + 1) * QUARTER + rules.window.as_nanos() as u64,
                None => self.time,
            },
        };
        Duration::from_nanos(moment.saturating_sub(self.time))
    }

    pub fn admit(&mut self, call: u64, rules: &Rules) -> Option<Refused> {
        let refused = self.refuses(rules);
        if refused.is_none() {
            self.heard.insert(call);
        } else {
            self.rejected += 1;
        }
        refused
    }

    fn refuses(&mut self, rules: &Rules) -> Option<Refused> {
        if self.is_throttled() {
            return Some(Refused::Throttled { retry_after: Duration::from_nanos(self.wait - self.time) });
        }
        if let Stand::Open { since } = self.stand {
            let until = since + rules.open_for.as_nanos() as u64;
            if self.time < until {
                return Some(Refused::Open { retry_after: Duration::from_nanos(until - self.time) });
            }
            self.becomes(Stand::HalfOpen { succeeded: 0 });
        }
        self.close_if_proved(rules);
        match self.stand {
            Stand::HalfOpen { succeeded } if self.heard.len() as u64 + succeeded >= rules.probes => {
                Some(Refused::Probing)
            }
            _ => None,
        }
    }

    pub fn end(&mut self, call: u64, outcome: Outcome, rules: &Rules) {
        let failed = outcome == Outcome::Failure;
        self.calls += u64::from(outcome != Outcome::Cancelled);
        self.failures += u64::from(failed);
        if let Outcome::Throttled(asked) = outcome {
            let asked = asked.unwrap_or(Duration::from_secs(1)).min(Duration::from_hours(24));
            self.wait = self.wait.max(self.time + asked.as_nanos() as u64);
        }
        self.close_if_proved(rules);
        if !self.heard.remove(&call) || outcome == Outcome::Cancelled {
            return;
        }
        match &mut self.stand {
            Stand::Closed => {
                self.ended.push((self.time, failed));
                if failed && self.fails_too_often(rules) {
                    self.becomes(Stand::Open { since: self.time });
                }
            }
            Stand::HalfOpen { .. } if failed => self.becomes(Stand::Open { since: self.time }),
            Stand::HalfOpen { succeeded } => *succeeded += 1,
            Stand::Open { .. } => unreachable!("no call begins while it is open"),
        }
        self.close_if_proved(rules);
    }

    fn oldest(&self, rules: &Rules) -> u64 {
        self.time.saturating_sub(rules.window.as_nanos() as u64) / QUARTER * QUARTER
    }

    fn fails_too_often(&self, rules: &Rules) -> bool {
        let counts = self.ended.iter().filter(|(at, _)| *at >= self.oldest(rules));
        let (calls, failures) =
            counts.fold((0, 0), |(calls, failures), (_, failed)| (calls + 1, failures + u64::from(*failed)));
        calls >= rules.minimum && failures * 100 >= rules.percent * calls
    }

    fn close_if_proved(&mut self, rules: &Rules) {
        if matches!(self.stand, Stand::HalfOpen { succeeded } if succeeded >= rules.probes) {
            self.ended.clear();
            self.becomes(Stand::Closed);
        }
    }

    fn becomes(&mut self, stand: Stand) {
        self.stand = stand;
        self.heard.clear();
    }
}
