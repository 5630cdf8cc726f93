//! A world of replicas, requests, a network and a shared bucket, in steps of a millisecond. A seed gives the
//! same world again.

mod desk;
mod world;

use phase6_ratelimit::{
    Limit,
    contact::Contact,
    escrow::{Escrow, Grant, Report},
    lease::{Lease, Step},
};

pub use desk::Desk;
use world::Numbers;
pub use world::{Cut, World};

const MS: u64 = 1_000_000;
/// When worlds begin, in nanoseconds.
const START: u64 = 1_000 * MS;
/// So long after an edit nothing that was sent before it is on its way any more.
const SETTLED: u64 = 400 * MS;

/// One replica.
struct Replica {
    /// Tells one life of it from the next.
    life: u64,
    desk: Desk,
    contact: Contact,
    /// The newest edit that it has heard of, under whose limit it decides.
    edit: Edit,
    /// What it is going to hear of, and when.
    unheard: Vec<(u64, Edit)>,
    /// It is cut off from then on, for so long, and again after so long, in nanoseconds.
    cut: Option<(u64, u64, u64)>,
}

impl Replica {
    /// Looks for edits. Of an older one than it knows it does not hear any more.
    fn hears(&mut self, now: u64) {
        if self.unheard.is_empty() {
            return;
        }
        let heard = self.unheard.iter().filter(|(due, _)| *due <= now).map(|(_, edit)| *edit);
        self.edit = heard.chain([self.edit]).max_by_key(|edit| edit.number).unwrap_or(self.edit);
        self.unheard.retain(|(due, edit)| *due > now && edit.number > self.edit.number);
    }

    fn reaches(&self, now: u64) -> bool {
        self.cut.is_none_or(|(from, length, again)| {
            now.checked_sub(from).is_none_or(|since| since.checked_rem(again).unwrap_or(since) >= length)
        })
    }
}

/// A limit, and which edit brought it.
#[derive(Clone, Copy)]
struct Edit {
    number: u64,
    at: u64,
    limit: Limit,
}

/// Nobody's life: the answer to what came late is heard by nobody.
const NOBODY: u64 = u64::MAX;

enum Message {
    Report(usize, u64, Report, Edit),
    Answer(usize, u64, Grant),
    Lost(usize, u64),
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub admitted: u64,
    pub refused: u64,
    pub calls: u64,
    /// Things that happened: requests, messages that arrived, looks of a replica at its lease.
    pub steps: u64,
    /// Which bucket held how much at each millisecond, in one number.
    pub history: u64,
}

/// What a single bucket would hold of all that was admitted.
struct Judge {
    level: f64,
    at: u64,
    /// The most that it may hold.
    most: f64,
    /// At which rate it drains, in tokens per second.
    rate: f64,
}

impl Judge {
    fn admitted(&mut self, now: u64) {
        self.level = (self.level - self.rate * (now - self.at) as f64 / 1e9).max(0.0) + 1.0;
        self.at = now;
    }
}

struct Simulation<'a> {
    world: &'a World,
    numbers: Numbers,
    names: u64,
    edit: Edit,
    /// How many times the limit replicas may admit that lose the shared state, and once more what it forgets.
    factor: f64,
    forgotten: f64,
    shared: Escrow,
    /// What the clock of the shared state shows beside that of the world, in microseconds.
    ahead_us: u64,
    replicas: Vec<Replica>,
    /// Messages on their way, and when they arrive.
    network: Vec<(u64, Message)>,
    judge: Judge,
    /// The same of what was admitted since the last edit, once all that was on its way has arrived.
    since_edit: Judge,
    outcome: Outcome,
}

/// Lets a world go by, and checks after each millisecond that no more was admitted than may be.
pub fn simulate(world: &World) -> Outcome {
    let mut simulation = Simulation::new(world);
    for tick in 0..world.seconds * 1_000 {
        let now = START + tick * MS;
        simulation.happens(tick);
        simulation.arrives(now);
        simulation.requests(tick, now);
        simulation.tends(tick, now);
        let Judge { level, most, .. } = simulation.judge;
        let outcome = &mut simulation.outcome;
        outcome.history =
            outcome.history.rotate_left(7) ^ level.to_bits() ^ simulation.shared.level().to_bits();
        assert!(level <= most + 1e-3, "{level} in a bucket of {most} after {tick} ms: {world:?}");
        let Judge { level, most, .. } = simulation.since_edit;
        assert!(level <= most + 1e-3, "{level} of {most} since the edit, after {tick} ms: {world:?}");
    }
    simulation.outcome
}

impl<'a> Simulation<'a> {
    fn new(world: &'a World) -> Self {
        let mut numbers = Numbers(world.seed);
        let limit = Limit::new(world.capacity, world.rate);
        let edit = Edit { number: 0, at: 0, limit };
        let replicas: Vec<Replica> = (0..world.replicas)
            .map(|i| Replica {
                life: 0,
                desk: Desk::new(Lease::new(limit, u64::from(i))),
                contact: Contact::default(),
                edit,
                unheard: Vec::new(),
                cut: world.cut.filter(|cut| numbers.below(100) < cut.percent).map(|cut| {
                    let length = cut.for_ms + if i > 0 { cut.noticed_ms } else { 0 };
                    let period = cut.for_ms + cut.noticed_ms + cut.again_ms;
                    let again = if cut.again_ms == 0 { 0 } else { period };
                    (START + cut.from_ms * MS, length * MS, again * MS)
                }),
            })
            .collect();
        // An edit acts on the time since the last report too, so the largest rate counts for all of it.
        let rate = if world.edits > 0 { 1.5 * world.rate } else { world.rate };
        let (mut factor, mut forgotten) = (1.0, 0.0);
        if let Some(cut) = world.cut {
            // If only some are cut off, the others draw on the whole limit beside the shares of these. Where
            // messages are lost, each of them is cut off for a moment now and then.
            let cut_off = replicas.iter().filter(|replica| replica.cut.is_some()).count();
            let part = cut_off as f64 / replicas.len() as f64;
            // Where the next outage begins before all have settled, the first one back draws on it by itself for a
            // moment each time: 1.55 was seen.
            let one_and_a_half = if (1..1_500).contains(&cut.again_ms) { 1.6 } else { 1.5 };
            factor = match (world.lost, part) {
                (0, 1.0) => one_and_a_half,
                (0, part) => (1.0 + part).max(one_and_a_half),
                _ => 2.0,
            };
            // What the shared state forgot may be had again.
            forgotten = f64::from(u8::from(cut.forgets));
        }
        let judge =
            Judge { level: 0.0, at: 0, most: limit.capacity() * (factor + forgotten), rate: rate * factor };
        Self {
            world,
            numbers,
            names: u64::from(world.replicas),
            edit,
            factor,
            forgotten,
            shared: Escrow::default(),
            ahead_us: 3_600_000_000,
            replicas,
            network: Vec::new(),
            since_edit: Judge { ..judge },
            judge,
            outcome: Outcome::default(),
        }
    }

    /// What befalls the world: edits, crashes, and loss of memory.
    fn happens(&mut self, tick: u64) {
        let Self { world, numbers, .. } = self;
        if numbers.below(1_000) < world.edits {
            // One below the number of replicas cannot be divided among them.
            let least = if world.cut.is_some() { i64::from(2 * world.replicas) } else { 1 };
            let capacity = least.max(1 + numbers.below(2 * world.capacity as u64) as i64);
            let rate = world.rate * [0.002, 0.5, 1.0, 1.5][numbers.below(4) as usize];
            let (number, at) = (self.edit.number + 1, START + tick * MS);
            self.edit = Edit { number, at, limit: Limit::new(capacity, rate) };
            let most = self.edit.limit.capacity() * (self.factor + self.forgotten);
            self.judge.most = self.judge.most.max(most);
            // Nothing is said of it until all have heard.
            self.edit.at += world.heard_ms * MS;
            self.since_edit = Judge { level: 0.0, at, most, rate: rate * self.factor };
            for replica in &mut self.replicas {
                let heard_in = if world.heard_ms > 0 { numbers.below(world.heard_ms) } else { 0 };
                replica.unheard.push((at + heard_in * MS, self.edit));
            }
        }
        if numbers.below(1_000) < world.crashes {
            let victim = &mut self.replicas[numbers.below(u64::from(world.replicas)) as usize];
            self.names += 1;
            victim.unheard.push((0, self.edit));
            (victim.life, victim.desk) =
                (victim.life + 1, Desk::new(Lease::new(self.edit.limit, self.names)));
        }
        if numbers.below(10_000) < world.steps {
            self.ahead_us = self.ahead_us.saturating_sub(numbers.below(60_000) * 1_000);
        }
        if world.cut.is_some_and(|cut| cut.forgets && tick == cut.from_ms + cut.for_ms) {
            self.shared = Escrow::default();
        }
    }

    /// What arrives by now.
    fn arrives(&mut self, now: u64) {
        let (arrived, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.network).into_iter().partition(|(due, _)| *due <= now);
        self.network = rest;
        self.outcome.steps += arrived.len() as u64;
        for (_, message) in arrived {
            match message {
                Message::Report(replica, life, report, edit) => {
                    let grant = self.shared.report(&edit.limit, &report, now / 1_000 + self.ahead_us);
                    self.outcome.calls += 1;
                    // A request that waits is decided about here, whenever it hears of it.
                    for _ in 0..grant.served(report.needed) {
                        self.admits(edit.number, now);
                    }
                    let due = now + (1 + self.numbers.below(self.world.delay_ms)) * MS;
                    let lost =
                        self.numbers.below(100) < self.world.lost || !self.replicas[replica].reaches(now);
                    self.network.push(if lost {
                        (due + 25 * MS, Message::Lost(replica, life))
                    } else {
                        (due, Message::Answer(replica, life, grant))
                    });
                }
                Message::Answer(replica, life, grant) if self.replicas[replica].life == life => {
                    self.replicas[replica].contact.answered(now);
                    let (served, _) =
                        self.replicas[replica].desk.with(now, |lease| lease.granted(&grant, now));
                    self.outcome.admitted += u64::from(served);
                }
                Message::Lost(replica, life) if self.replicas[replica].life == life => {
                    self.replicas[replica].desk.with(now, Lease::failed);
                    // A message that is lost while nobody is cut off is just told again.
                    if self.world.cut.is_some() {
                        self.replicas[replica].contact.failed(now);
                    }
                }
                Message::Answer(..) | Message::Lost(..) => {}
            }
        }
    }

    /// What comes in this millisecond: requests, to replicas at random.
    fn requests(&mut self, tick: u64, now: u64) {
        let world = self.world;
        let count = (0..10).filter(|_| self.numbers.below(10_000) < world.demand).count();
        let is_quiet = world.cut.is_some_and(|cut| {
            cut.quiet && (cut.from_ms + cut.for_ms / 4..cut.from_ms + cut.for_ms).contains(&tick)
        });
        for _ in 0..count.max((world.demand / 1_000) as usize) {
            let chosen = self.numbers.below(u64::from(world.replicas));
            let pauses = world.burst_ms > 0 && !(tick / world.burst_ms + chosen).is_multiple_of(3);
            if !pauses && !is_quiet {
                self.request(chosen as usize, now);
            }
        }
    }

    fn request(&mut self, chosen: usize, now: u64) {
        self.outcome.steps += 1;
        let replica = &mut self.replicas[chosen];
        replica.hears(now);
        let edit = replica.edit;
        let of = f64::from(self.world.replicas);
        let share = Limit::new((edit.limit.capacity() / of) as i64, edit.limit.refill_per_second() / of);
        let name = || {
            self.names += 1;
            self.names
        };
        let is_admitted = replica.desk.decide(&edit.limit, now).or_else(|| {
            replica.desk.with(now, |lease| match lease.decide(&edit.limit, now, name) {
                Step::Decided(decision) => Some(decision.is_admitted()),
                Step::Ask if replica.contact.is_alone(now) => {
                    Some(lease.decide_alone(&share, now).is_admitted())
                }
                Step::Ask => None,
            })
        });
        match is_admitted {
            Some(true) => {
                self.outcome.admitted += 1;
                self.admits(edit.number, now);
            }
            Some(false) => self.outcome.refused += 1,
            // One waits for the answer; others that come meanwhile come again later.
            None => {
                let asks = |lease: &mut Lease| lease.report(1, self.world.replicas, now);
                if let Some(report) = replica.desk.with(now, asks) {
                    self.send(chosen, report, now);
                }
            }
        }
    }

    /// One more is admitted, under the limit of that edit.
    fn admits(&mut self, edit: u64, now: u64) {
        self.judge.admitted(now);
        if edit == self.edit.number && now >= self.edit.at + SETTLED * u64::from(edit > 0) {
            self.since_edit.admitted(now);
        }
    }

    /// What replicas do although nobody asks.
    fn tends(&mut self, tick: u64, now: u64) {
        self.outcome.steps += self.replicas.len() as u64;
        for chosen in 0..self.replicas.len() {
            let replica = &mut self.replicas[chosen];
            if replica.contact.may_try(now) {
                if replica.reaches(now) {
                    replica.contact.answered(now);
                } else {
                    replica.contact.failed(now);
                }
            }
            let lease = replica.desk.looked_at();
            let report = if replica.contact.is_alone(now) {
                let tells = tick.is_multiple_of(50) && !replica.contact.is_gone() && lease.has_to_tell();
                tells.then(|| replica.desk.with(now, |lease| lease.tell(now)))
            } else {
                let wants = lease.wants_to_report(now);
                wants.then(|| replica.desk.with(now, |lease| lease.report(0, self.world.replicas, now)))
            };
            if let Some(report) = report.flatten() {
                self.send(chosen, report, now);
            }
        }
    }

    /// Puts a report on its way, if it is not lost. Whoever sent a lost one waits 25 ms for an answer; it may
    /// still arrive, when nobody waits any more.
    fn send(&mut self, chosen: usize, report: Report, now: u64) {
        let (sender, numbers) = (&self.replicas[chosen], &mut self.numbers);
        let lost = (now + 25 * MS, Message::Lost(chosen, sender.life));
        if !sender.reaches(now) {
            self.network.push(lost);
        } else if numbers.below(100) >= self.world.lost {
            let due = now + (1 + numbers.below(self.world.delay_ms)) * MS;
            self.network.push((due, Message::Report(chosen, sender.life, report, sender.edit)));
        } else {
            self.network.push(lost);
            if numbers.below(2) == 0 {
                let late = now + (25 + numbers.below(300)) * MS;
                self.network.push((late, Message::Report(chosen, NOBODY, report, sender.edit)));
            }
        }
    }
}
