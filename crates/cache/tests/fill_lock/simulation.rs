//! A world of replicas that look for one answer, in steps of a millisecond. A seed gives the same world again.
//!
//! In a replica one caller searches and the others wait for it, as they do in a cache; the answer's edition goes
//! up when it is forgotten.

mod parts;
mod world;

use std::time::Duration;

use phase6_cache::duty::{Duty, LASTS, Next, PROLONGED, Search, Seen, Stored, Wanted, Whose, Word};

use parts::{Doing, Held, Message, Replica};
pub use world::{Sum, World};

use crate::numbers::Numbers;

const LASTS_MS: u64 = LASTS.as_millis() as u64;
const PROLONGED_MS: u64 = PROLONGED.as_millis() as u64;
/// Nobody waits longer for a reply.
const LIMIT_MS: u64 = 25;
/// Between attempts to say that an answer has landed, and how often it is said.
const AGAIN_MS: u64 = 100;
const SAID: u64 = LASTS_MS / AGAIN_MS;

struct Simulation<'a> {
    world: &'a World,
    numbers: Numbers,
    now: u64,
    names: u64,
    /// The edition that would be made now, and the one that is stored.
    edition: u64,
    stored: u64,
    stored_at: u64,
    duty: Duty,
    replicas: Vec<Replica>,
    held: Vec<Held>,
    network: Vec<(u64, Message)>,
    /// Of this edition: how often it was made, and how often it may have been.
    made: u64,
    most: u64,
    /// When somebody made it last.
    busy_at: u64,
    sum: Sum,
}

/// Lets a world go by.
pub fn simulate(world: &World) -> Sum {
    let replica = |name| Replica { name, doing: Doing::Nothing, word: None, knows: 0 };
    let mut simulation = Simulation {
        world,
        numbers: Numbers(world.seed),
        now: 0,
        names: world.replicas,
        edition: 1,
        stored: 0,
        stored_at: 0,
        duty: Duty::default(),
        replicas: (0..world.replicas).map(replica).collect(),
        held: Vec::new(),
        network: Vec::new(),
        made: 0,
        most: 1,
        busy_at: 0,
        sum: Sum::default(),
    };
    for now in 1..=world.seconds * 1_000 {
        simulation.now = now;
        simulation.happens();
        simulation.arrives();
        simulation.goes_on();
        simulation.asks();
        simulation.holds();
    }
    simulation.sum
}

impl Simulation<'_> {
    /// What befalls the world.
    fn happens(&mut self) {
        let Self { world, numbers, .. } = self;
        let [crashes, deaf, forgets] =
            [world.crashes, world.deaf, world.forgets].map(|often| numbers.below(10_000) < often);
        let victim = numbers.below(world.replicas) as usize;
        if crashes {
            let name = self.replicas[victim].name;
            self.names += 1;
            self.replicas[victim] = Replica { name: self.names, doing: Doing::Nothing, word: None, knows: 0 };
            self.held.retain(|held| held.name != name);
            self.went_wrong(1);
        }
        if deaf {
            // Whoever waits there is woken, and makes the answer.
            self.replicas[victim].word = Some(Word::Landed);
            self.went_wrong(1);
        }
        if forgets {
            self.edition += 1;
            // What goes wrong while one is made is felt by those who want the next one.
            let else_nothing_goes_wrong = self.world.lost + self.world.crashes + self.world.deaf == 0;
            (self.made, self.most) = (0, if else_nothing_goes_wrong { 1 } else { 1 + self.world.replicas });
            self.sum.faults += 1;
        }
    }

    /// Something went wrong, for which the answer may be made so often more.
    fn went_wrong(&mut self, more: u64) {
        self.most += more;
        self.sum.faults += 1;
    }

    fn send(&mut self, message: Message) {
        let due = self.now + 1 + self.numbers.below(self.world.delay_ms);
        self.network.push((due, message));
    }

    fn is_lost(&mut self) -> bool {
        self.numbers.below(1_000) < self.world.lost
    }

    /// A message to the shared state; it may be lost, or only what it says back.
    fn tell(&mut self, message: Message) {
        if !self.is_lost() {
            return self.send(message);
        }
        // Where it is not known that a store failed, everybody who waits finds nothing.
        let is_store = matches!(message, Message::Store(..));
        self.went_wrong(if is_store { self.world.replicas } else { 1 });
        let gone_at = self.now + LIMIT_MS;
        match message {
            Message::Look(name, wanted) => {
                if self.numbers.below(2) == 0 && wanted != Wanted::Answer {
                    self.duty.ask(name, LASTS_MS, self.now);
                }
                self.network.push((gone_at, Message::Failed(name, wanted)));
            }
            Message::Store(name, _) => self.network.push((gone_at, Message::Stored(name))),
            _ => {}
        }
    }

    fn replica(&mut self, name: u64) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| replica.name == name)
    }

    /// What arrives by now.
    fn arrives(&mut self) {
        let now = self.now;
        let (arrived, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.network).into_iter().partition(|(due, _)| *due <= now);
        self.network = rest;
        for (_, message) in arrived {
            self.sum.steps += 1;
            match message {
                Message::Look(name, wanted) => {
                    let is_there = self.stored > 0 && self.stored == self.edition;
                    let takes = wanted == Wanted::Duty || wanted == Wanted::DutyIfNone && self.stored == 0;
                    let is_own = takes && self.duty.ask(name, LASTS_MS, now);
                    let stored = match self.stored {
                        0 => Stored::Nothing,
                        _ if is_there => Stored::WillDo,
                        _ => Stored::Forgotten,
                    };
                    let duty = match (takes, is_own) {
                        (_, true) => Whose::Own,
                        (true, false) => Whose::Others,
                        (false, false) => Whose::Unknown,
                    };
                    let seen = Seen { stored, duty };
                    self.send(Message::Found(name, self.stored, seen));
                }
                Message::Found(name, edition, seen) => self.found(name, edition, seen),
                Message::Failed(name, wanted) => self.fails(name, wanted),
                Message::Prolong(name) => {
                    self.duty.prolong(name, LASTS_MS, now);
                }
                Message::Store(name, edition) => {
                    if self.world.is_shareable && edition >= self.stored {
                        (self.stored, self.stored_at) = (edition, now);
                    }
                    self.send(Message::Stored(name));
                }
                Message::Stored(name) => {
                    if let Some(replica) = self.replica(name) {
                        replica.doing = Doing::Nothing;
                    }
                    if let Some(held) =
                        self.held.iter_mut().find(|held| held.name == name && held.says.is_none())
                    {
                        held.says = Some((Word::Landed, SAID, now));
                    }
                }
                Message::Over(name, word) => {
                    if self.duty.landed(name, now) {
                        self.send(Message::Word(word));
                    }
                    self.send(Message::Said(name));
                }
                Message::Said(name) => self.held.retain(|held| held.name != name || held.says.is_none()),
                Message::Word(word) => self.replicas.iter_mut().for_each(|replica| replica.word = Some(word)),
            }
        }
    }

    fn found(&mut self, name: u64, edition: u64, seen: Seen) {
        let now = self.now;
        if self.replica(name).is_none() {
            return;
        }
        if seen.duty == Whose::Own {
            self.held.push(Held { name, prolonged_at: now, says: None });
        }
        let Some(replica) = self.replica(name) else { return };
        let Doing::Looking(mut search, begun) = replica.doing else { return };
        match search.looked(seen, Duration::from_millis(now - begun)) {
            Next::Look(wanted) => self.looks(name, search, begun, wanted),
            Next::Wait => {
                replica.doing = Doing::Waiting(search, begun, now + LASTS_MS);
                self.sum.waited += 1;
            }
            Next::End if seen.stored == Stored::WillDo => {
                (replica.knows, replica.doing) = (edition, Doing::Nothing);
                if seen.duty == Whose::Own {
                    // It was there after all; nobody has to wait for another one.
                    self.held
                        .iter_mut()
                        .filter(|held| held.name == name)
                        .for_each(|held| held.says = Some((Word::Landed, SAID, now)));
                }
            }
            Next::End => self.makes(name),
        }
    }

    fn fails(&mut self, name: u64, wanted: Wanted) {
        let now = self.now;
        let Some(replica) = self.replica(name) else { return };
        if matches!(replica.doing, Doing::Looking(..)) {
            // It may be its duty, and it goes on as if it were.
            if wanted != Wanted::Answer {
                self.held.push(Held { name, prolonged_at: now, says: None });
            }
            self.makes(name);
        }
    }

    fn looks(&mut self, name: u64, search: Search, begun: u64, wanted: Wanted) {
        if let Some(replica) = self.replica(name) {
            replica.doing = Doing::Looking(search, begun);
            replica.word = replica.word.filter(|_| wanted == Wanted::Answer);
        }
        self.tell(Message::Look(name, wanted));
    }

    fn makes(&mut self, name: u64) {
        let until = self.now + 1 + self.numbers.below(self.world.makes_ms);
        let edition = self.edition;
        if let Some(replica) = self.replica(name) {
            replica.doing = Doing::Making(edition, until);
        }
        self.made += 1;
        self.sum.made += 1;
    }

    /// What replicas do by themselves.
    fn goes_on(&mut self) {
        let now = self.now;
        for i in 0..self.replicas.len() {
            let Replica { name, doing, word, .. } = self.replicas[i];
            match doing {
                Doing::Waiting(search, begun, until) if word.is_some() || until <= now => {
                    let wanted = search.waited(word);
                    self.looks(name, search, begun, wanted);
                }
                Doing::Making(edition, until) if until <= now => {
                    self.replicas[i].knows = edition;
                    self.replicas[i].doing = Doing::Storing;
                    // Who has heard that it is forgotten does not store it.
                    if edition != self.edition && self.numbers.below(2) == 0 {
                        self.replicas[i].doing = Doing::Nothing;
                        let mut held = self.held.iter_mut();
                        if let Some(held) = held.find(|held| held.name == name && held.says.is_none()) {
                            held.says = Some((Word::Lost, SAID, now));
                        }
                    } else if self.world.is_shareable {
                        self.tell(Message::Store(name, edition));
                    } else {
                        self.network.push((now, Message::Stored(name)));
                    }
                }
                _ => {}
            }
        }
        let mut says = Vec::new();
        for held in &mut self.held {
            match &mut held.says {
                None if now - held.prolonged_at >= PROLONGED_MS => {
                    held.prolonged_at = now;
                    says.push(Message::Prolong(held.name));
                }
                Some((word, left, at)) if *at <= now && *left > 0 => {
                    (*left, *at) = (*left - 1, now + AGAIN_MS);
                    says.push(Message::Over(held.name, *word));
                }
                _ => {}
            }
        }
        self.held.retain(|held| held.says.is_none_or(|(_, left, _)| left > 0));
        for message in says {
            self.tell(message);
        }
    }

    /// Callers come.
    fn asks(&mut self) {
        for i in 0..self.replicas.len() {
            let is_asked = self.numbers.below(1_000) < self.world.demand;
            let Replica { name, doing, knows, .. } = self.replicas[i];
            if is_asked && knows != self.edition && matches!(doing, Doing::Nothing) {
                let (search, wanted) = Search::begin(true);
                self.looks(name, search, self.now, wanted);
            }
        }
    }

    /// What holds at each step.
    fn holds(&mut self) {
        let Self { world, now, made, most, .. } = self;
        assert!(!world.is_shareable || made <= most, "made {made} times of {most} after {now} ms: {world:?}");
        let is_calm = world.lost + world.crashes + world.deaf + world.forgets == 0;
        let makes = |replica: &Replica| matches!(replica.doing, Doing::Making(..) | Doing::Storing);
        if self.replicas.iter().any(makes) {
            self.busy_at = *now;
        }
        for replica in &self.replicas {
            if let Doing::Looking(_, begun) | Doing::Waiting(_, begun, _) = replica.doing {
                let since = |then: u64| *now - begun.max(then);
                let told = format!("{replica:?} after {now} ms: {world:?}");
                // The word, a look, and its reply; or, where one of them was lost, until it is tired of waiting.
                let soon = if is_calm { 5 * world.delay_ms } else { 2 * LASTS_MS };
                assert!(self.stored != self.edition || since(self.stored_at) <= soon, "not told: {told}");
                // What cannot be shared everybody makes as soon as that is known.
                let known = world.makes_ms + 2 * soon;
                assert!(world.is_shareable || !is_calm || since(0) <= known, "waits in vain: {told}");
                // A duty ends although nobody says so.
                assert!(since(self.busy_at) <= 2 * LASTS_MS + soon, "nobody makes it: {told}");
            }
            let code = match replica.doing {
                Doing::Nothing => 0,
                Doing::Looking(..) => 1,
                Doing::Waiting(..) => 2,
                Doing::Making(..) => 3,
                Doing::Storing => 4,
            };
            self.sum.history = self.sum.history.rotate_left(3) ^ code ^ replica.knows;
        }
    }
}
