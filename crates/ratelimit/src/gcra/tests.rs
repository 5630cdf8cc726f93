//! Tests of a single bucket: examples, then its guarantees as properties.

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

/// Returns how many of `requests` requests are admitted.
fn admitted(bucket: &mut Bucket, limit: &Limit, requests: u32, now: u64) -> u32 {
    (0..requests).filter(|_| bucket.decide(limit, 1, now).is_admitted()).count() as u32
}

#[test]
fn allows_request_within_limit() {
    let mut bucket = Bucket::default();
    let decision = bucket.decide(&Limit::new(10, 1.0), 5, SECOND);
    assert_eq!(decision, Decision::Admit { remaining: 5, full_in: Duration::from_secs(5) });
}

#[test]
fn an_empty_bucket_fills_in_its_window() {
    assert_eq!(Limit::new(10, 4.0).window(), Duration::from_millis(2_500));
}

#[test]
fn denies_request_exceeding_limit() {
    let mut bucket = Bucket::default();
    let limit = Limit::new(10, 1.0);
    bucket.decide(&limit, 5, SECOND);
    assert_eq!(
        bucket.decide(&limit, 10, SECOND),
        Decision::Refuse { retry_after: Some(Duration::from_secs(5)) }
    );
    assert_eq!(admitted(&mut bucket, &limit, 10, SECOND), 5, "a refusal takes no token");
}

#[test]
fn refuses_a_request_above_the_capacity_without_a_retry_time() {
    let mut bucket = Bucket::default();
    assert_eq!(bucket.decide(&Limit::new(10, 1.0), 11, SECOND), Decision::Refuse { retry_after: None });
}

/// The original system refilled once per second, so bursts coincided at each tick.
#[test]
fn refills_continuously_without_a_timer() {
    let mut bucket = Bucket::default();
    let limit = Limit::new(10, 10.0);
    assert_eq!(admitted(&mut bucket, &limit, 20, SECOND), 10);
    assert_eq!(admitted(&mut bucket, &limit, 20, SECOND + SECOND / 10), 1);
    assert_eq!(admitted(&mut bucket, &limit, 20, SECOND + SECOND / 2), 4);
    assert_eq!(admitted(&mut bucket, &limit, 20, 100 * SECOND), 10, "never above the capacity");
}

#[test]
fn a_clock_that_steps_back_adds_no_tokens() {
    let mut bucket = Bucket::default();
    let limit = Limit::new(10, 10.0);
    assert_eq!(admitted(&mut bucket, &limit, 20, 10 * SECOND), 10);
    assert_eq!(admitted(&mut bucket, &limit, 20, 5 * SECOND), 0);
    assert_eq!(admitted(&mut bucket, &limit, 20, 10 * SECOND), 0);
}

/// Regression: after a cut, a client was refused until everything it had used under the large limit had
/// drained at the small rate. Here that would take more than a quarter of an hour.
#[test]
fn after_a_cut_the_new_rate_applies_at_once_and_a_raise_restores_no_tokens() {
    let (mut bucket, large, small) = (Bucket::default(), Limit::new(1_000, 100.0), Limit::new(10, 1.0));
    assert_eq!(admitted(&mut bucket, &large, 2_000, SECOND), 1_000);
    for second in 1..=4 {
        assert_eq!(admitted(&mut bucket, &small, 99, second * SECOND), u32::from(second > 1));
    }
    let decision = bucket.decide(&small, 1, 5 * SECOND);
    assert_eq!(
        decision,
        Decision::Admit { remaining: 0, full_in: Duration::from_secs(10) },
        "the small bucket refills"
    );
    assert_eq!(admitted(&mut bucket, &small, 99, 8 * SECOND), 3, "the refill of three seconds");
    assert_eq!(admitted(&mut bucket, &large, 99, 8 * SECOND), 0, "all 1,000 tokens are still used");
    assert_eq!(admitted(&mut bucket, &small, 99, 8 * SECOND), 0);
    // Without requests both the bucket and the overflow drain.
    assert_eq!(admitted(&mut bucket, &small, 99, 508 * SECOND), 10);
    assert_eq!(admitted(&mut bucket, &large, 999, 508 * SECOND), 490);
}

/// 1,000 tokens used at 100 per second have drained after 10 s, even if the rate was cut meanwhile.
#[test]
fn tokens_used_before_a_cut_drain_at_the_old_rate() {
    let (large, small) = (Limit::new(1_000, 100.0), Limit::new(1_000, 0.001));
    for (seconds, left) in [(4, 396..=400), (11, 1_000..=1_000)] {
        let mut bucket = Bucket::default();
        assert_eq!(admitted(&mut bucket, &large, 2_000, SECOND), 1_000);
        let then = (1 + seconds) * SECOND;
        assert!(left.contains(&admitted(&mut bucket, &small, 2_000, then)), "after {seconds} s");
        assert_eq!(
            admitted(&mut bucket, &small, 9, then + 10 * SECOND),
            0,
            "from then on the new rate applies"
        );
    }
    let mut bucket = Bucket::default();
    assert_eq!(admitted(&mut bucket, &small, 600, SECOND), 600);
    assert_eq!(admitted(&mut bucket, &large, 9_999, 3 * SECOND), 600, "a raise takes effect at once");
}

#[test]
fn a_raise_and_a_cut_take_effect_on_the_next_decision() {
    let mut bucket = Bucket::default();
    assert_eq!(admitted(&mut bucket, &Limit::new(10, 1.0), 99, SECOND), 10);
    assert_eq!(
        admitted(&mut bucket, &Limit::new(30, 1.0), 99, SECOND),
        20,
        "the raised capacity minus the used tokens"
    );
    assert_eq!(admitted(&mut bucket, &Limit::new(5, 1.0), 99, SECOND), 0, "the cut");
    let faster = Limit::new(30, 1000.0);
    assert_eq!(admitted(&mut bucket, &faster, 99, SECOND + SECOND / 100), 10, "the faster refill");
}

/// A limiter that stores one arrival time per key admits a burst at every change between the two limits: see
/// `docs/decisions/limiter-state.md`.
#[test]
fn flipping_a_limit_back_and_forth_admits_nothing_extra() {
    let (slow, fast) = (Limit::new(100, 10.0), Limit::new(100, 1000.0));
    let mut bucket = Bucket::default();
    let mut total = 0;
    for edit in 0..1000_u64 {
        let limit = if edit % 2 == 0 { slow } else { fast };
        total += admitted(&mut bucket, &limit, 50, SECOND + edit * 1_000_000);
    }
    assert!(total <= 100 + 1000, "{total} exceeds one burst and one second at the larger rate");
}

proptest! {
    /// Requests arrive at random times and every one brings another random limit.
    #[test]
    fn no_window_admits_more_than_the_largest_limit(
        steps in proptest::collection::vec((0..400_000_000_u64, 1..50_i64, 1..200_u32, 1..4_u32), 1..300),
    ) {
        let mut bucket = Bucket::default();
        let mut now = 1;
        let mut history: Vec<(u64, u32)> = Vec::new();
        let (mut largest_capacity, mut largest_rate) = (0.0_f64, 0.0_f64);
        for (gap, capacity, rate, cost) in steps {
            now += gap;
            let limit = Limit::new(capacity, f64::from(rate) / 10.0);
            largest_capacity = largest_capacity.max(limit.capacity);
            largest_rate = largest_rate.max(limit.refill_per_second);
            if bucket.decide(&limit, cost, now).is_admitted() {
                history.push((now, cost));
            }
        }
        for (i, (start, _)) in history.iter().enumerate() {
            let mut sum = 0.0;
            for (end, cost) in &history[i..] {
                sum += f64::from(*cost);
                let bound = largest_capacity + largest_rate * (end - start) as f64 / 1e9 + 0.01;
                prop_assert!(sum <= bound, "{sum} > {bound}");
            }
        }
    }

    /// The oracle counts whole billionths of a token; the limit does not change.
    #[test]
    fn agrees_with_an_exact_oracle(
        capacity in 1..1000_i64, rate in 1..10_000_u32,
        gaps in proptest::collection::vec(0..2_000_000_000_u64, 1..200),
    ) {
        let limit = Limit::new(capacity, f64::from(rate));
        let mut bucket = Bucket::default();
        let full = i128::from(capacity) * 1_000_000_000;
        let (mut tokens, mut last, mut now) = (full, 0_u64, 0_u64);
        for gap in gaps {
            now += gap;
            tokens = full.min(tokens + i128::from(now - last) * i128::from(rate));
            last = now;
            let fits = tokens >= 1_000_000_000;
            if fits {
                tokens -= 1_000_000_000;
            }
            prop_assert_eq!(bucket.decide(&limit, 1, now).is_admitted(), fits);
        }
    }

    #[test]
    fn the_drain_time_is_never_early_and_at_most_one_percent_late(
        capacity in 1..100_000_i64, rate in 1..100_000_u32, used in 1..100_000_u32, start in 0..1_u64 << 60,
    ) {
        let limit = Limit::new(capacity, f64::from(rate) / 100.0);
        let mut bucket = Bucket::default();
        let used = used.min(capacity as u32);
        bucket.decide(&limit, used, start);
        let exact_ns = f64::from(used) * 1e9 / limit.refill_per_second();
        let stated_ns = (bucket.drained_at_ns() - start) as f64;
        prop_assert!(stated_ns >= exact_ns.floor() && stated_ns <= exact_ns * 1.01);
    }

    #[test]
    fn a_retry_after_the_stated_time_is_admitted(
        capacity in 1..100_i64, rate in 1..100_000_u32, start in 1..u64::MAX / 4,
    ) {
        let limit = Limit::new(capacity, f64::from(rate) / 100.0);
        let mut bucket = Bucket::default();
        loop {
            match bucket.decide(&limit, 1, start) {
                Decision::Admit { .. } => {}
                Decision::Refuse { retry_after } => {
                    let wait = retry_after.unwrap().as_nanos() as u64;
                    prop_assert!(bucket.decide(&limit, 1, start + wait).is_admitted());
                    break;
                }
            }
        }
    }
}
