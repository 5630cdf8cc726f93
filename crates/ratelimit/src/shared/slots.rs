//! The purses of leases, where requests find them: a lock is taken only when a purse has nothing to say.
//!
//! A table of fixed size. A key has one of a few places; while all of them are taken by others its lease is
//! asked each time, which is slower and decides the same.
//!
//! Only whoever holds the lock of the lease's shard claims, lends, takes and frees; requests only spend. A
//! purse is taken away before anything else of its place changes, and no two in a row are the same word: what
//! a request has read of a place belongs together if the word is still there afterwards.

use std::{
    sync::{
        OnceLock,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use super::clock::Clock;
use crate::{
    gcra::{Decision, Limit},
    lease::{Lease, Purse, Said, admitted},
};

/// Places that a key may have.
const WAYS: usize = 4;

/// The place of one key, in one line of the processor's cache.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    /// Its hash; 0: nobody's.
    key: AtomicU64,
    purse: AtomicU64,
    /// The limit under which the purse was lent.
    capacity: AtomicU64,
    refill_per_second: AtomicU64,
    /// Tokens beside the purse's.
    beside: AtomicU32,
    /// Requests that were refused by purses since the lease counted them.
    refused: AtomicU32,
    /// When a request was decided last.
    seen_ns: AtomicU64,
    told_until_ns: AtomicU64,
}

impl Slot {
    fn is_of(&self, key: u64, limit: &Limit) -> bool {
        self.key.load(Acquire) == key
            && self.capacity.load(Acquire) == limit.capacity().to_bits()
            && self.refill_per_second.load(Acquire) == limit.refill_per_second().to_bits()
    }

    fn decide(&self, key: u64, limit: &Limit, clock: &Clock) -> Option<Decision> {
        let mut now = clock.recent_ns();
        let mut purse = Purse::of(self.purse.load(Acquire));
        loop {
            let said = purse.decide(now)?;
            if !self.is_of(key, limit) {
                return None;
            }
            match said {
                Said::Admit(left) => {
                    let beside = self.beside.load(Acquire);
                    self.seen_ns.store(now, Relaxed);
                    match self.purse.compare_exchange_weak(purse.word(), left.word(), AcqRel, Acquire) {
                        Ok(_) => return Some(admitted(limit, u64::from(left.tokens()) + u64::from(beside))),
                        Err(word) => purse = Purse::of(word),
                    }
                }
                Said::Refuse => {
                    if purse.decide(now + clock.behind_ns()).is_none() {
                        // Whoever has waited as long as it was told to is not refused by a clock that is behind.
                        now = clock.now_ns();
                        purse.decide(now)?;
                    }
                    let told_until = self.told_until_ns.load(Acquire);
                    let word = self.purse.load(Relaxed);
                    if word == purse.word() {
                        self.seen_ns.store(now, Relaxed);
                        self.refused.fetch_add(1, Relaxed);
                        let retry_after = Some(Duration::from_nanos(told_until.saturating_sub(now)));
                        return Some(Decision::Refuse { retry_after });
                    }
                    purse = Purse::of(word);
                }
            }
        }
    }
}

/// The place of a lease, and what was lent there.
#[derive(Debug)]
pub(super) struct Place {
    index: usize,
    lent: Purse,
}

/// All places.
#[derive(Debug)]
pub(super) struct Slots {
    /// Made when the first key comes: a service whose buckets are its own needs none.
    slots: OnceLock<Box<[Slot]>>,
    count: usize,
}

impl Slots {
    pub(super) fn with_room_for(keys: usize) -> Self {
        // Of the keys that a replica knows few are busy at a time.
        Self { slots: OnceLock::new(), count: keys.div_ceil(2).next_power_of_two().max(WAYS) }
    }

    /// Decides about a request, if its key has a purse that can.
    pub(super) fn decide(&self, key: u64, limit: &Limit, clock: &Clock) -> Option<Decision> {
        let slot =
            self.ways(key).map(|index| &self.all()[index]).find(|slot| slot.key.load(Relaxed) == key)?;
        slot.decide(key, limit, clock)
    }

    /// A place for a key that has none, if one is free.
    pub(super) fn claim(&self, key: u64) -> Option<Place> {
        let is_free = |slot: &Slot| slot.key.load(Relaxed) == 0;
        let claims = |slot: &Slot| slot.key.compare_exchange(0, key, AcqRel, Relaxed).is_ok();
        let index =
            self.ways(key).find(|index| is_free(&self.all()[*index]) && claims(&self.all()[*index]))?;
        Some(Place { index, lent: Purse::of(self.all()[index].purse.load(Acquire)) })
    }

    /// Lends what `lease` has to lend.
    pub(super) fn lend(&self, place: &mut Place, lease: &Lease, now_ns: u64) {
        let Some(loan) = lease.lend(now_ns) else { return };
        let slot = &self.all()[place.index];
        slot.capacity.store(loan.limit.capacity().to_bits(), Release);
        slot.refill_per_second.store(loan.limit.refill_per_second().to_bits(), Release);
        slot.beside.store(loan.beside, Release);
        slot.told_until_ns.store(loan.told_until_ns, Release);
        place.lent = loan.purse.following(place.lent);
        slot.purse.store(place.lent.word(), Release);
    }

    /// Takes away what was lent, and has `lease` count what was decided by it.
    pub(super) fn take(&self, place: &mut Place, lease: &mut Lease) {
        if place.lent.is_nothing() {
            return;
        }
        let slot = &self.all()[place.index];
        let nothing = Purse::default().following(place.lent);
        let left = Purse::of(slot.purse.swap(nothing.word(), AcqRel));
        let spent = place.lent.tokens() - left.tokens();
        lease.settle(spent, slot.refused.swap(0, Relaxed), slot.seen_ns.load(Relaxed));
        place.lent = nothing;
    }

    /// Gives a place up, and with it what was lent there.
    pub(super) fn free(&self, place: &Place) {
        let slot = &self.all()[place.index];
        slot.purse.store(Purse::default().following(place.lent).word(), Release);
        slot.refused.store(0, Relaxed);
        slot.seen_ns.store(0, Relaxed);
        slot.key.store(0, Release);
    }

    /// When a request was decided last by what was lent.
    pub(super) fn seen_ns(&self, place: &Place) -> u64 {
        self.all()[place.index].seen_ns.load(Relaxed)
    }

    fn all(&self) -> &[Slot] {
        self.slots.get_or_init(|| (0..self.count).map(|_| Slot::default()).collect())
    }

    fn ways(&self, key: u64) -> impl Iterator<Item = usize> {
        let (first, last) = (key as usize, self.count - 1);
        // A hash that reads as nobody's has no place.
        (0..if key == 0 { 0 } else { WAYS }).map(move |way| first.wrapping_add(way) & last)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::escrow::Grant;

    const LIMIT: (i64, f64) = (1_000_000, 10.0);

    fn limit() -> Limit {
        Limit::new(LIMIT.0, LIMIT.1)
    }

    /// A lease that was granted as many tokens as so many requests wait for, less those of the requests.
    fn holds(tokens: u32, now: u64) -> Lease {
        let mut lease = Lease::new(limit(), 1);
        let requests = 2 * tokens;
        (0..requests).for_each(|_| {
            lease.decide(&limit(), now, || 1);
        });
        lease.report(0, 1, now).unwrap();
        lease.granted(&Grant { tokens, ..Grant::default() }, now);
        lease
    }

    #[test]
    fn threads_spend_exactly_what_is_lent_while_it_is_taken_back_and_lent_again() {
        let (slots, clock) = (Slots::with_room_for(32), Clock::start());
        let mut lease = holds(200_000, clock.now_ns());
        let mut place = slots.claim(7).unwrap();
        let (admitted, done) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Relaxed) {
                        let decision = slots.decide(7, &limit(), &clock);
                        admitted.fetch_add(u64::from(decision.is_some_and(|it| it.is_admitted())), Relaxed);
                    }
                });
            }
            let due = std::time::Instant::now() + Duration::from_secs(10);
            while admitted.load(Relaxed) < 50_000 && std::time::Instant::now() < due {
                slots.lend(&mut place, &lease, clock.now_ns());
                slots.take(&mut place, &mut lease);
            }
            done.store(true, Relaxed);
        });
        let admitted = admitted.into_inner();
        assert!(admitted >= 50_000, "{admitted}");
        assert_eq!(lease.tell(clock.now_ns()).unwrap().used, admitted);
    }

    #[test]
    fn a_purse_speaks_only_for_its_key_and_of_the_limit_that_it_was_lent_under() {
        let (slots, clock) = (Slots::with_room_for(32), Clock::start());
        let lease = holds(100, clock.now_ns());
        let mut place = slots.claim(7).unwrap();
        assert!(slots.decide(7, &limit(), &clock).is_none(), "nothing is lent yet");
        slots.lend(&mut place, &lease, clock.now_ns());
        assert!(slots.decide(7, &limit(), &clock).is_some());
        for other in [Limit::new(LIMIT.0 - 1, LIMIT.1), Limit::new(LIMIT.0, 9.0)] {
            assert!(slots.decide(7, &other, &clock).is_none(), "{other:?}");
        }
        assert!(slots.decide(8, &limit(), &clock).is_none());
        slots.free(&place);
        assert!(slots.decide(7, &limit(), &clock).is_none(), "it was given up");
        let again = slots.claim(7 + 16).unwrap();
        assert_eq!(again.index, place.index);
        assert!(slots.decide(7 + 16, &limit(), &clock).is_none(), "what was lent there was another's");
    }

    #[test]
    fn a_key_whose_places_are_all_taken_has_none_until_one_is_given_up() {
        let slots = Slots::with_room_for(32);
        let taken: Vec<Place> = (1..=4).map(|i| slots.claim(16 * i + 3).unwrap()).collect();
        assert!(slots.claim(16 * 9 + 3).is_none());
        assert!(slots.claim(16 * 9 + 8).is_some(), "others have theirs");
        slots.free(&taken[2]);
        assert_eq!(slots.claim(16 * 9 + 3).map(|place| place.index), Some(taken[2].index));
        assert!(slots.claim(0).is_none(), "a hash that reads as nobody's");
        assert!(slots.decide(0, &limit(), &Clock::start()).is_none());
    }

    #[test]
    fn refusals_are_told_when_to_come_and_are_counted() {
        let (slots, clock) = (Slots::with_room_for(32), Clock::start());
        let mut lease = Lease::new(limit(), 1);
        let now = clock.now_ns();
        lease.report(1, 1, now).unwrap();
        lease.granted(&Grant { again_in_us: 60_000_000, retry_in_us: 90_000_000, ..Grant::default() }, now);
        let mut place = slots.claim(7).unwrap();
        slots.lend(&mut place, &lease, now);
        while clock.recent_ns() == 0 {}
        for _ in 0..5 {
            let Some(Decision::Refuse { retry_after: Some(wait) }) = slots.decide(7, &limit(), &clock) else {
                panic!("not refused")
            };
            assert!((Duration::from_secs(80)..Duration::from_millis(90_001)).contains(&wait), "{wait:?}");
        }
        assert!(slots.seen_ns(&place) > 0);
        assert_eq!(slots.all()[place.index].refused.load(Relaxed), 5);
        slots.take(&mut place, &mut lease);
        assert_eq!(slots.all()[place.index].refused.load(Relaxed), 0);
        assert!(lease.seen_ns() > 0);
    }

    #[test]
    fn a_place_is_one_line_of_the_cache() {
        assert_eq!(size_of::<Slot>(), 64);
    }
}
