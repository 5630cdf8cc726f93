//! The published credit of leases, where requests find it: a lock is taken only if a credit word cannot
//! decide.
//!
//! A table of fixed size. A key has one of a few slots. While other keys occupy all of them, its lease
//! decides every request, which is slower and gives the same decisions.
//!
//! Only the holder of the lock of the lease's shard claims, publishes, withdraws and releases; requests only
//! spend. A word is withdrawn before any other field of its slot changes, and two consecutive words of a slot
//! always differ. Hence the fields that a request has read are consistent if the word is still the same
//! afterwards.

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
    lease::{CreditDecision, CreditWord, Lease},
};

/// Number of slots that a key can occupy.
const WAYS: usize = 4;

/// Published credit of one key, in one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    /// Hash of the key; 0 if the slot is free.
    key: AtomicU64,
    /// Bits of the credit word.
    word: AtomicU64,
    /// Bits of the capacity under which the word was published.
    capacity: AtomicU64,
    /// Bits of the refill rate under which the word was published.
    refill_per_second: AtomicU64,
    /// Known remaining tokens that are not in the word.
    remaining: AtomicU32,
    /// Number of requests refused since the last withdrawal.
    refused: AtomicU32,
    /// Time of the last decided request, in nanoseconds.
    last_request_ns: AtomicU64,
    /// Time at which a refused client may retry, in nanoseconds.
    retry_at_ns: AtomicU64,
}

impl Slot {
    fn is_valid_for(&self, key: u64, limit: &Limit) -> bool {
        self.key.load(Acquire) == key
            && self.capacity.load(Acquire) == limit.capacity().to_bits()
            && self.refill_per_second.load(Acquire) == limit.refill_per_second().to_bits()
    }

    fn decide(&self, key: u64, limit: &Limit, clock: &Clock) -> Option<Decision> {
        let mut now = clock.coarse_ns();
        let mut word = CreditWord::from_bits(self.word.load(Acquire));
        loop {
            let decision = word.decide(now)?;
            if !self.is_valid_for(key, limit) {
                return None;
            }
            match decision {
                CreditDecision::Admit(left) => {
                    let remaining = self.remaining.load(Acquire);
                    self.last_request_ns.store(now, Relaxed);
                    match self.word.compare_exchange_weak(word.to_bits(), left.to_bits(), AcqRel, Acquire) {
                        Ok(_) => {
                            let remaining = u64::from(left.tokens()) + u64::from(remaining);
                            return Some(Decision::admit(limit, remaining));
                        }
                        Err(bits) => word = CreditWord::from_bits(bits),
                    }
                }
                CreditDecision::Refuse => {
                    if word.decide(now + clock.coarse_lag_ns()).is_none() {
                        // Close to the expiry the exact time decides, so that a client which has waited for
                        // its retry time is not refused because the coarse clock lags.
                        now = clock.now_ns();
                        word.decide(now)?;
                    }
                    let retry_at_ns = self.retry_at_ns.load(Acquire);
                    let bits = self.word.load(Relaxed);
                    if bits == word.to_bits() {
                        self.last_request_ns.store(now, Relaxed);
                        self.refused.fetch_add(1, Relaxed);
                        let retry_after = Some(Duration::from_nanos(retry_at_ns.saturating_sub(now)));
                        return Some(Decision::Refuse { retry_after });
                    }
                    word = CreditWord::from_bits(bits);
                }
            }
        }
    }
}

/// A claimed slot and the word last published in it.
#[derive(Debug)]
pub(super) struct SlotHandle {
    index: usize,
    published: CreditWord,
}

/// The slots of all keys.
#[derive(Debug)]
pub(super) struct FastPathTable {
    /// Allocated for the first key: a service without shared buckets needs no table.
    slots: OnceLock<Box<[Slot]>>,
    slot_count: usize,
}

impl FastPathTable {
    /// Creates a table with half as many slots as `keys`, because few of the known keys are busy at a time.
    pub(super) fn with_capacity(keys: usize) -> Self {
        Self { slots: OnceLock::new(), slot_count: keys.div_ceil(2).next_power_of_two().max(WAYS) }
    }

    /// Decides on a request if its key has a credit word that can.
    pub(super) fn decide(&self, key: u64, limit: &Limit, clock: &Clock) -> Option<Decision> {
        let slot =
            self.ways(key).map(|index| &self.slots()[index]).find(|slot| slot.key.load(Relaxed) == key)?;
        slot.decide(key, limit, clock)
    }

    /// Claims a slot for a key that has none. Returns `None` if all of its ways are occupied.
    pub(super) fn claim(&self, key: u64) -> Option<SlotHandle> {
        let is_free = |slot: &Slot| slot.key.load(Relaxed) == 0;
        let claims = |slot: &Slot| slot.key.compare_exchange(0, key, AcqRel, Relaxed).is_ok();
        let index =
            self.ways(key).find(|index| is_free(&self.slots()[*index]) && claims(&self.slots()[*index]))?;
        Some(SlotHandle { index, published: CreditWord::from_bits(self.slots()[index].word.load(Acquire)) })
    }

    /// Publishes the credit of `lease`, if it has any.
    pub(super) fn publish(&self, handle: &mut SlotHandle, lease: &Lease, now_ns: u64) {
        let Some(credit) = lease.publish(now_ns) else { return };
        let slot = &self.slots()[handle.index];
        slot.capacity.store(credit.limit.capacity().to_bits(), Release);
        slot.refill_per_second.store(credit.limit.refill_per_second().to_bits(), Release);
        slot.remaining.store(credit.remaining, Release);
        slot.retry_at_ns.store(credit.retry_at_ns, Release);
        handle.published = credit.word.with_version_after(handle.published);
        slot.word.store(handle.published.to_bits(), Release);
    }

    /// Withdraws the published credit and reconciles `lease` with the decisions made by it.
    pub(super) fn withdraw(&self, handle: &mut SlotHandle, lease: &mut Lease) {
        if handle.published.is_empty() {
            return;
        }
        let slot = &self.slots()[handle.index];
        let empty = CreditWord::default().with_version_after(handle.published);
        let left = CreditWord::from_bits(slot.word.swap(empty.to_bits(), AcqRel));
        let spent = handle.published.tokens() - left.tokens();
        lease.reconcile(spent, slot.refused.swap(0, Relaxed), slot.last_request_ns.load(Relaxed));
        handle.published = empty;
    }

    /// Releases a slot together with its published credit.
    pub(super) fn release(&self, handle: &SlotHandle) {
        let slot = &self.slots()[handle.index];
        slot.word.store(CreditWord::default().with_version_after(handle.published).to_bits(), Release);
        slot.refused.store(0, Relaxed);
        slot.last_request_ns.store(0, Relaxed);
        slot.key.store(0, Release);
    }

    /// Time of the last request that the published credit decided, in nanoseconds.
    pub(super) fn last_request_ns(&self, handle: &SlotHandle) -> u64 {
        self.slots()[handle.index].last_request_ns.load(Relaxed)
    }

    fn slots(&self) -> &[Slot] {
        self.slots.get_or_init(|| (0..self.slot_count).map(|_| Slot::default()).collect())
    }

    /// Indices of the slots that a key can occupy.
    fn ways(&self, key: u64) -> impl Iterator<Item = usize> {
        let (first, last) = (key as usize, self.slot_count - 1);
        // A hash of 0 marks a free slot, so a key with that hash has no slot.
        (0..if key == 0 { 0 } else { WAYS }).map(move |way| first.wrapping_add(way) & last)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::escrow::Grant;

    fn limit() -> Limit {
        Limit::new(1_000_000, 10.0)
    }

    /// A lease that was granted `tokens` tokens, as the demand of twice as many requests allows.
    fn lease_with_tokens(tokens: u32, now: u64) -> Lease {
        let mut lease = Lease::new(limit(), 1);
        for _ in 0..2 * tokens {
            lease.decide(&limit(), now, || 1);
        }
        lease.report(0, 1, now).unwrap();
        lease.apply_grant(&Grant { tokens, ..Grant::default() }, now);
        lease
    }

    #[test]
    fn threads_spend_exactly_the_published_tokens_while_they_are_withdrawn_and_published() {
        let (table, clock) = (FastPathTable::with_capacity(32), Clock::start());
        let mut lease = lease_with_tokens(200_000, clock.now_ns());
        let mut handle = table.claim(7).unwrap();
        let (admitted, done) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Relaxed) {
                        let decision = table.decide(7, &limit(), &clock);
                        let is_admitted = decision.is_some_and(|decision| decision.is_admitted());
                        admitted.fetch_add(u64::from(is_admitted), Relaxed);
                    }
                });
            }
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while admitted.load(Relaxed) < 50_000 && std::time::Instant::now() < deadline {
                table.publish(&mut handle, &lease, clock.now_ns());
                table.withdraw(&mut handle, &mut lease);
            }
            done.store(true, Relaxed);
        });
        let admitted = admitted.into_inner();
        assert!(admitted >= 50_000, "{admitted}");
        assert_eq!(lease.report_spent(clock.now_ns()).unwrap().spent, admitted);
    }

    #[test]
    fn a_credit_word_decides_only_for_its_key_and_its_limit() {
        let (table, clock) = (FastPathTable::with_capacity(32), Clock::start());
        let lease = lease_with_tokens(100, clock.now_ns());
        let mut handle = table.claim(7).unwrap();
        assert!(table.decide(7, &limit(), &clock).is_none(), "nothing is published yet");
        table.publish(&mut handle, &lease, clock.now_ns());
        assert!(table.decide(7, &limit(), &clock).is_some());
        for other in [Limit::new(999_999, 10.0), Limit::new(1_000_000, 9.0)] {
            assert!(table.decide(7, &other, &clock).is_none(), "{other:?}");
        }
        assert!(table.decide(8, &limit(), &clock).is_none());
        table.release(&handle);
        assert!(table.decide(7, &limit(), &clock).is_none(), "the slot was released");
        let again = table.claim(7 + 16).unwrap();
        assert_eq!(again.index, handle.index);
        assert!(table.decide(7 + 16, &limit(), &clock).is_none(), "the credit belonged to another key");
    }

    #[test]
    fn a_key_whose_ways_are_occupied_gets_a_slot_when_one_is_released() {
        let table = FastPathTable::with_capacity(32);
        let claimed: Vec<SlotHandle> = (1..=4).map(|i| table.claim(16 * i + 3).unwrap()).collect();
        assert!(table.claim(16 * 9 + 3).is_none());
        assert!(table.claim(16 * 9 + 8).is_some(), "other keys have other ways");
        table.release(&claimed[2]);
        assert_eq!(table.claim(16 * 9 + 3).map(|handle| handle.index), Some(claimed[2].index));
        assert!(table.claim(0).is_none(), "a hash of 0 marks a free slot");
        assert!(table.decide(0, &limit(), &Clock::start()).is_none());
    }

    #[test]
    fn refusals_state_the_retry_time_and_are_counted() {
        let (table, clock) = (FastPathTable::with_capacity(32), Clock::start());
        let mut lease = Lease::new(limit(), 1);
        let now = clock.now_ns();
        lease.report(1, 1, now).unwrap();
        let grant = Grant { recheck_in_us: 60_000_000, retry_in_us: 90_000_000, ..Grant::default() };
        lease.apply_grant(&grant, now);
        let mut handle = table.claim(7).unwrap();
        table.publish(&mut handle, &lease, now);
        while clock.coarse_ns() == 0 {}
        for _ in 0..5 {
            let Some(Decision::Refuse { retry_after: Some(wait) }) = table.decide(7, &limit(), &clock) else {
                panic!("not refused")
            };
            assert!((Duration::from_secs(80)..Duration::from_millis(90_001)).contains(&wait), "{wait:?}");
        }
        assert!(table.last_request_ns(&handle) > 0);
        assert_eq!(table.slots()[handle.index].refused.load(Relaxed), 5);
        table.withdraw(&mut handle, &mut lease);
        assert_eq!(table.slots()[handle.index].refused.load(Relaxed), 0);
        assert!(lease.last_request_ns() > 0);
    }

    #[test]
    fn a_slot_is_one_cache_line() {
        assert_eq!(size_of::<Slot>(), 64);
    }
}
