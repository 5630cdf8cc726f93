//! Tests of the shared bucket, report by report.

use super::*;

const SECOND: u64 = 1_000_000;

/// The first report of a replica that has no tokens and requests none.
fn report_of(holder: u64) -> Report {
    Report {
        holder,
        sequence: 1,
        spent: 0,
        acknowledged: 0,
        leased: 0,
        needed: 0,
        wanted: 0,
        reserve: 0,
        reserve_within_us: 0,
    }
}

#[test]
fn a_replica_gets_at_most_half_of_the_room_unless_more_requests_wait() {
    let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 1.0));
    assert_eq!(bucket.report(&limit, &Report { wanted: 100, ..report_of(1) }, SECOND).tokens, 5);
    let grant = bucket.report(&limit, &Report { wanted: 4, needed: 4, ..report_of(2) }, SECOND);
    assert_eq!((grant.tokens, grant.remaining), (4, 1));
    assert_eq!(bucket.leased().to_bits(), 5.0_f64.to_bits(), "tokens of waiting requests count as spent");
}

#[test]
fn after_the_clock_steps_back_buckets_drain_and_leases_expire_as_before() {
    const HOUR: u64 = 3_600 * SECOND;
    let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 1.0));
    // The first replica leases five tokens and falls silent; the second spends the other five.
    bucket.report(&limit, &Report { wanted: 5, ..report_of(1) }, HOUR);
    bucket.report(&limit, &Report { wanted: 5, needed: 5, ..report_of(2) }, HOUR);
    let mut request = |sequence, at_us| {
        let report = Report { sequence, wanted: 1, needed: 1, ..report_of(3) };
        bucket.report(&limit, &report, at_us).tokens
    };
    assert_eq!(request(1, SECOND), 0, "the used tokens are still used");
    assert_eq!(request(2, 2 * SECOND), 1, "one token drains within a second");
    assert_eq!(request(3, 2 * SECOND), 0);
    assert!(bucket.leased() > 4.0);
    bucket.report(&limit, &Report { sequence: 4, ..report_of(3) }, SECOND + LEASE_DURATION_US);
    assert!(bucket.leased() < 0.5, "the leases have expired");
}

#[test]
fn reserved_tokens_and_the_leases_of_others_fit_into_the_bucket() {
    let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 10.0));
    for (holder, granted) in [(1, 5), (2, 3), (3, 1), (4, 1)] {
        let report = Report { wanted: 10, ..report_of(holder) };
        assert_eq!(bucket.report(&limit, &report, SECOND).tokens, granted);
    }
    // All ten are leased. If they were spent after the reserved tokens are due, 15 would be spent at once.
    let reserving = Report { reserve: 5, reserve_within_us: SECOND, ..report_of(5) };
    let grant = bucket.report(&limit, &reserving, SECOND);
    assert_eq!((grant.tokens, grant.recheck_in_us), (0, 100_000));
    // After they are spent, the tokens that refill can be reserved.
    for (holder, leased) in [(1, 5), (2, 3), (3, 1), (4, 1)] {
        bucket.report(&limit, &Report { sequence: 2, spent: leased, ..report_of(holder) }, SECOND);
    }
    let grant = bucket.report(&limit, &Report { sequence: 2, ..reserving }, SECOND);
    assert_eq!((grant.tokens, grant.due_in_us), (5, 100_000));
}

#[test]
fn after_an_edit_of_the_rate_alone_tokens_return_to_the_bucket_they_came_from() {
    let mut bucket = Escrow::default();
    bucket.report(&Limit::new(100, 10.0), &Report { wanted: 60, needed: 60, ..report_of(1) }, SECOND);
    // After the cut, 20 used tokens are in the bucket and 40 in the overflow; a second later, ten are free.
    let cut = Limit::new(20, 10.0);
    assert_eq!(
        bucket.report(&cut, &Report { sequence: 2, spent: 60, wanted: 1, ..report_of(1) }, SECOND).tokens,
        0
    );
    assert_eq!(bucket.report(&cut, &Report { wanted: 4, ..report_of(2) }, 2 * SECOND).tokens, 4);
    let slower = Limit::new(20, 5.0);
    let tokens = bucket.report(&slower, &Report { wanted: 100, ..report_of(3) }, 2 * SECOND).tokens;
    assert_eq!(tokens, 3, "half of the six that remain");
    bucket.report(&slower, &Report { sequence: 2, ..report_of(2) }, 2 * SECOND);
    let remaining = bucket.report(&slower, &Report { wanted: 100, ..report_of(4) }, 2 * SECOND).remaining;
    assert_eq!(remaining, 3, "four of seven are granted");
}

#[test]
fn the_retry_time_of_a_refusal_holds_even_if_no_token_is_returned() {
    for (leased, capacity) in [(4, 10), (10, 10)] {
        let (mut bucket, limit) = (Escrow::default(), Limit::new(capacity, 0.5));
        // One replica leases some tokens and falls silent; another spends the rest.
        bucket.report(&limit, &Report { wanted: leased, needed: 0, ..report_of(1) }, SECOND);
        let rest = capacity as u32 - bucket.leased() as u32;
        bucket.report(&limit, &Report { wanted: rest, needed: rest, ..report_of(2) }, SECOND);
        let refused = bucket.report(&limit, &Report { wanted: 1, needed: 1, ..report_of(3) }, SECOND);
        assert_eq!(refused.tokens, 0);
        assert!(refused.recheck_in_us <= refused.retry_in_us);
        let then = SECOND + refused.retry_in_us;
        let again =
            bucket.report(&limit, &Report { sequence: 2, wanted: 1, needed: 1, ..report_of(3) }, then);
        assert_eq!(again.tokens, 1, "after {} us", refused.retry_in_us);
    }
}

#[test]
fn after_a_cut_tokens_do_not_drain_at_the_old_rate() {
    let (mut bucket, fast, slow) = (Escrow::default(), Limit::new(100, 1_000.0), Limit::new(10, 0.001));
    let request = |holder, sequence| Report { sequence, wanted: 9, needed: 9, ..report_of(holder) };
    bucket.report(&fast, &request(1, 1), SECOND);
    bucket.report(&fast, &Report { wanted: 5, ..report_of(2) }, SECOND);
    assert_eq!(
        bucket.report(&slow, &request(1, 2), 2 * SECOND).tokens,
        5,
        "the tokens used before the cut have drained"
    );
    // A replica without a request since the edit returns its tokens and still sends the old limit.
    bucket.report(&fast, &Report { sequence: 2, ..report_of(2) }, 3 * SECOND);
    assert_eq!(
        bucket.report(&slow, &request(3, 1), 4 * SECOND).tokens,
        5,
        "the returned tokens are available"
    );
    assert_eq!(bucket.report(&slow, &request(1, 3), 5 * SECOND).tokens, 0, "and no others");
}

/// Regression: a client was refused until everything it had used under the large limit had drained at the
/// small rate.
#[test]
fn after_a_cut_the_new_rate_applies_at_once_and_a_raise_restores_no_tokens() {
    let (mut bucket, large, small) = (Escrow::default(), Limit::new(1_000, 100.0), Limit::new(10, 1.0));
    // The first and the third replica spend their tokens at once, the second leases 250.
    bucket.report(&large, &Report { wanted: 500, needed: 500, ..report_of(1) }, SECOND);
    bucket.report(&large, &Report { wanted: 250, ..report_of(2) }, SECOND);
    bucket.report(&large, &Report { wanted: 250, needed: 250, ..report_of(3) }, SECOND);
    assert_eq!(bucket.leased().to_bits(), 250.0_f64.to_bits());
    let request = |holder, sequence| Report { sequence, wanted: 999, needed: 999, ..report_of(holder) };
    let refused = bucket.report(&small, &request(1, 2), SECOND);
    assert_eq!((refused.tokens, refused.retry_in_us.div_ceil(1000), bucket.used() as u32), (0, 4_000, 10));
    // The second replica has spent 100 of its 250 tokens and returns the rest.
    let refused = bucket.report(&small, &Report { spent: 100, ..request(2, 2) }, SECOND);
    assert_eq!(
        (refused.tokens, refused.retry_in_us.div_ceil(1000), bucket.overflow() as u32),
        (0, 1_000, 840)
    );
    for second in 2..=5 {
        let granted = bucket.report(&small, &request(2 + second % 2, second + 1), second * SECOND).tokens;
        assert_eq!(granted, 1, "at {second}");
    }
    assert_eq!(
        bucket.report(&large, &request(1, 9), 5 * SECOND).tokens,
        150,
        "the unused part of 1,000 tokens"
    );
    assert_eq!(bucket.report(&small, &request(1, 10), 5 * SECOND).tokens, 0);
}

/// Regression: replicas learn of an edit at different times and report under both limits in turns. Each turn
/// reserved the same time again: in a scenario of nine replicas, a bucket of 600 tokens admitted 3,200
/// requests.
#[test]
fn alternating_limits_do_not_reserve_the_same_time_twice() {
    let limits = [Limit::new(100, 1_000.0), Limit::new(20, 500.0), Limit::new(100, 500.0)];
    for turn in [[0, 1], [1, 0], [0, 2], [2, 0], [0, 0]] {
        let mut bucket = Escrow::default();
        let used = Report { wanted: 100, needed: 100, ..report_of(1) };
        bucket.report(&limits[0], &used, SECOND);
        let mut reserved = 0;
        for holder in 2..100 {
            let limit = limits[turn[holder as usize % 2]];
            let request =
                Report { reserve: 40, reserve_within_us: MAX_RESERVE_AHEAD_US, ..report_of(holder) };
            let grant = bucket.report(&limit, &request, SECOND);
            let due_us = |token: u32| f64::from(token) / limit.refill_per_second() * 1e6;
            assert!(grant.tokens == 0 || grant.due_in_us as f64 >= due_us(1), "{grant:?}");
            if grant.tokens > 0 {
                let last_us = grant.due_in_us as f64 + due_us(grant.tokens - 1);
                assert!(last_us <= MAX_RESERVE_AHEAD_US as f64 + 1.0, "{grant:?}");
            }
            reserved += grant.tokens;
        }
        // At most the refill of 100 ms at the faster of both rates.
        assert!((10..=100).contains(&reserved), "{reserved} between {turn:?}");
    }
}

/// Regression: reserved tokens drained at the new rate, so requests waited for them.
#[test]
fn after_a_cut_of_the_rate_alone_reserved_tokens_drain_at_the_old_rate() {
    let (mut bucket, fast, slow) = (Escrow::default(), Limit::new(100, 1_000.0), Limit::new(100, 1.0));
    bucket.report(&fast, &Report { wanted: 100, needed: 100, ..report_of(1) }, SECOND);
    let reserving = Report { reserve: 40, reserve_within_us: MAX_RESERVE_AHEAD_US, ..report_of(2) };
    assert_eq!(bucket.report(&fast, &reserving, SECOND).tokens, 40);
    let request = Report { wanted: 1, needed: 1, ..report_of(3) };
    let refused = bucket.report(&slow, &request, SECOND);
    assert_eq!(
        (refused.tokens, refused.retry_in_us.div_ceil(1000)),
        (0, 1_040),
        "the refill starts when all reserved tokens are due"
    );
    // A replica that knows the new limit drops its reserved tokens. They are not available to others.
    bucket.report(&slow, &Report { sequence: 2, wanted: 1, ..report_of(2) }, SECOND);
    let then = SECOND + refused.retry_in_us;
    assert_eq!(bucket.report(&slow, &Report { sequence: 2, ..request }, 2 * SECOND - 2_000).tokens, 0);
    assert_eq!(bucket.report(&slow, &Report { sequence: 3, ..request }, then).tokens, 1);
    assert_eq!(bucket.report(&slow, &Report { sequence: 4, ..request }, then).tokens, 0);
}

#[test]
fn a_late_report_is_ignored() {
    let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 0.001));
    let late = report_of(1);
    bucket.report(&limit, &Report { sequence: 2, wanted: 4, ..report_of(1) }, SECOND);
    assert_eq!(bucket.report(&limit, &late, SECOND), Grant::default());
    assert_eq!(bucket.leased().to_bits(), 4.0_f64.to_bits());
}

#[test]
fn tokens_of_a_lost_grant_return() {
    let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 0.001));
    bucket.report(&limit, &Report { wanted: 4, ..report_of(1) }, SECOND);
    let grant = bucket.report(&limit, &Report { sequence: 2, wanted: 4, ..report_of(1) }, SECOND);
    assert_eq!((grant.tokens, grant.remaining), (4, 6));
}

#[test]
fn tokens_of_a_silent_replica_count_as_spent_when_its_lease_expires() {
    let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 1.0));
    bucket.report(&limit, &Report { wanted: 8, needed: 0, ..report_of(1) }, SECOND);
    let before = bucket.report(&limit, &Report { wanted: 1, ..report_of(2) }, SECOND + LEASE_DURATION_US - 1);
    assert_eq!(before.remaining, 4, "five stay leased and one more was granted");
    bucket.report(&limit, &Report { sequence: 2, ..report_of(2) }, SECOND + LEASE_DURATION_US);
    let after =
        bucket.report(&limit, &Report { sequence: 3, ..report_of(2) }, 3 * SECOND + LEASE_DURATION_US);
    assert_eq!(after.remaining, 7, "after the expiry they drain");
}

#[test]
fn tokens_spent_by_the_local_fallback_are_a_debt_of_at_most_one_bucket() {
    let (mut bucket, limit) = (Escrow::default(), Limit::new(10, 1.0));
    let grant = bucket.report(&limit, &Report { spent: 500, wanted: 1, ..report_of(1) }, SECOND);
    assert_eq!((grant.tokens, grant.retry_in_us.div_ceil(1000)), (0, 11_000));
    assert_eq!(bucket.used().to_bits(), 20.0_f64.to_bits());
}
