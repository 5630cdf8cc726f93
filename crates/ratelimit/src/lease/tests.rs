//! Tests of the decisions and reports of a lease.

use super::{
    reporting::{EXPIRY_MARGIN_NS, IDLE_NS, PAUSE_NS},
    *,
};
use crate::escrow::{Grant, LEASE_DURATION_US, Report};

const SECOND: u64 = 1_000_000_000;

/// Sends up to 1,000 requests and returns how many are admitted.
fn spend_all(lease: &mut Lease, limit: &Limit, now_ns: u64) -> u32 {
    let is_admitted = |_: &u32| match lease.decide(limit, now_ns, || 2) {
        LeaseDecision::Decided(decision) => decision.is_admitted(),
        LeaseDecision::Unknown => false,
    };
    (0..1_000).filter(is_admitted).count() as u32
}

/// A lease without tokens whose demand at one second is `per_second` requests per second.
fn lease_with_demand(limit: Limit, per_second: f64) -> Lease {
    Lease { demand: Demand { per_second, last_request_ns: SECOND }, ..Lease::new(limit, 1) }
}

/// A lease that was granted `tokens` tokens at one second.
fn lease_with_tokens(limit: Limit, tokens: u32) -> Lease {
    let mut lease = lease_with_demand(limit, 100.0);
    assert!(lease.report(0, 3, SECOND).unwrap().wanted >= tokens);
    lease.apply_grant(&Grant { tokens, ..Grant::default() }, SECOND);
    lease
}

/// Without a request the lease does not learn of an edit; the next request brings the limit in force.
#[test]
fn without_recent_requests_a_lease_is_renewed_and_no_more_tokens_are_requested() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = Lease::new(limit, 1);
    assert_eq!(spend_all(&mut lease, &limit, SECOND), 0);
    lease.report(1, 3, SECOND);
    let tokens = lease.in_flight.unwrap().request.unwrap().wanted;
    lease.apply_grant(&Grant { tokens, ..Grant::default() }, SECOND);
    let leased_and_wanted =
        |lease: &mut Lease, now| lease.report(0, 3, now).map(|report| (report.leased, report.wanted));
    assert!(tokens > 20);
    let just_after = SECOND + PAUSE_NS;
    assert_eq!(leased_and_wanted(&mut lease.clone(), just_after), Some((tokens - 1, tokens)));
    let paused = just_after + 1;
    assert_eq!(leased_and_wanted(&mut lease, paused), Some((tokens - 1, 0)));
    lease.apply_grant(&Grant::default(), paused);
    assert_eq!(spend_all(&mut lease, &limit, paused), tokens - 1, "leased tokens can still be spent");
}

#[test]
fn a_report_requests_the_demand_of_one_second_up_to_half_of_a_share() {
    for (capacity, replicas, per_second, wanted, reserve) in [
        (1_000, 5, 60.0, 60, 6),
        (1_000, 5, 61.0, 61, 7),
        (1_000, 5, 500.0, 100, 50),
        (20, 5, 500.0, 2, 50),
        // Small buckets are shared token by token: only the waiting request counts.
        (19, 5, 500.0, 1, 0),
        (3, 1, 500.0, 1, 0),
        (4, 1, 500.0, 2, 50),
    ] {
        let mut lease = lease_with_demand(Limit::new(capacity, 10.0), per_second);
        let report = lease.report(1, replicas, SECOND + PAUSE_NS).unwrap();
        let requested = (report.wanted, report.reserve);
        assert_eq!(requested, (wanted, reserve), "{capacity} tokens, {replicas} replicas");
    }
}

#[test]
fn tokens_that_a_grant_acknowledges_are_not_reported_again() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = lease_with_tokens(limit, 40);
    assert_eq!(spend_all(&mut lease, &limit, SECOND), 40);
    let report = lease.report(2, 3, SECOND).unwrap();
    assert_eq!((report.spent, report.acknowledged), (40, 0));
    lease.apply_grant(&Grant { tokens: 2, ..Grant::default() }, SECOND);
    let report = lease.report(1, 3, SECOND).unwrap();
    assert_eq!((report.spent, report.acknowledged), (42, 42));
}

#[test]
fn a_report_without_a_grant_is_repeated() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = lease_with_tokens(limit, 40);
    assert!(lease.is_evictable());
    spend_all(&mut lease, &limit, SECOND);
    let first = lease.report(0, 3, SECOND).unwrap();
    assert!(!lease.is_evictable());
    assert_eq!(lease.report(0, 3, SECOND), None, "a report is in flight");
    lease.report_failed();
    assert!(lease.is_evictable());
    assert_eq!(lease.report(0, 3, SECOND), Some(Report { sequence: first.sequence + 1, ..first }));
}

#[test]
fn a_lease_is_obsolete_when_it_is_idle_and_empty_and_everything_is_acknowledged() {
    let limit = Limit::new(1_000, 10.0);
    let last_request = SECOND;
    let later = last_request + OBSOLETE_NS + 1;
    let mut lease = lease_with_tokens(limit, 40);
    assert!(!lease.is_obsolete(later), "it has tokens");
    spend_all(&mut lease, &limit, last_request);
    assert!(!lease.is_obsolete(later), "spent tokens are unacknowledged");
    lease.report_spent(last_request);
    assert!(!lease.is_obsolete(later), "a report is in flight");
    lease.apply_grant(&Grant::default(), last_request);
    assert!(!lease.is_obsolete(later - 1), "the last request was not long enough ago");
    assert!(lease.is_obsolete(later));
    // Five tokens of the share count as used at the start of the outage and one is spent: six refill in 60 s.
    let share = Limit::new(10, 0.1);
    assert!(lease.decide_by_local_fallback(&share, last_request).is_admitted());
    lease.report_spent(last_request);
    lease.apply_grant(&Grant::default(), last_request);
    let refilled = last_request + 60 * SECOND;
    assert!(!lease.is_obsolete(refilled - 1), "a new lease would grant the share again");
    assert!(lease.is_obsolete(refilled));
}

/// Regression: a limit that was cut just before an outage and raised again during it was admitted nearly
/// twice: once before the outage, and again by shares of which only half of the small one counted as used.
#[test]
fn half_of_the_capacity_that_an_edit_adds_to_a_share_counts_as_used_once() {
    let share = |capacity| Limit::new(capacity, 0.001);
    let mut lease = Lease::new(share(100), 1);
    let admitted = |lease: &mut Lease, capacity| {
        let share = share(capacity);
        (0..200).filter(|_| lease.decide_by_local_fallback(&share, SECOND).is_admitted()).count()
    };
    for (capacity, expected) in [(11, 5), (100, 44), (11, 0), (100, 0), (103, 1), (102, 0), (103, 0)] {
        assert_eq!(admitted(&mut lease, capacity), expected, "capacity {capacity}");
    }
    // The next outage starts with at least half of the share used; here all of it is.
    lease.report(0, 3, SECOND);
    lease.apply_grant(&Grant::default(), SECOND);
    assert_eq!(admitted(&mut lease, 11), 0);
    assert_eq!(admitted(&mut lease, 103), 0);
}

#[test]
fn each_outage_starts_with_half_of_a_share_that_has_refilled() {
    let share = Limit::new(100, 1.0);
    let mut lease = Lease::new(share, 1);
    for second in [1, 1_000, 2_000] {
        let now = second * SECOND;
        let is_admitted = |_: &u32| lease.decide_by_local_fallback(&share, now).is_admitted();
        assert_eq!((0..200).filter(is_admitted).count(), 50, "at {second} s");
        lease.report(0, 3, now);
        lease.apply_grant(&Grant::default(), now);
    }
}

#[test]
fn demand_counts_the_requests_of_the_last_second() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = Lease::new(limit, 1);
    for request in 0..400 {
        lease.decide(&limit, SECOND + request * SECOND / 50, || 2);
    }
    assert!((lease.demand.per_second - 50.0).abs() < 0.1, "{:?}", lease.demand);
    assert_eq!(lease.last_request_ns(), SECOND + 399 * SECOND / 50);
    lease.decide(&limit, SECOND, || 2);
    assert_eq!(lease.last_request_ns(), SECOND + 399 * SECOND / 50, "the clock stepped back");
    lease.decide(&limit, 60 * SECOND, || 2);
    assert!((lease.demand.per_second - 1.0).abs() < 1e-6, "{:?}", lease.demand);
}

/// A withdrawn credit word gives only the number of requests.
#[test]
fn counting_requests_together_equals_counting_them_at_equal_intervals() {
    for (requests, ms) in [(10, 100_u64), (100, 500), (20, 0), (5, 5_000)] {
        let mut one_by_one = Demand { per_second: 60.0, last_request_ns: SECOND };
        let mut together = one_by_one;
        for request in 1..=requests {
            one_by_one.count(1, SECOND + u64::from(request) * ms * 1_000_000 / u64::from(requests));
        }
        together.count(requests, SECOND + ms * 1_000_000);
        let (expected, actual) = (one_by_one.per_second, together.per_second);
        assert!((expected - actual).abs() < 1e-6, "{requests} in {ms} ms: {expected} and {actual}");
    }
}

#[test]
fn an_expired_lease_gets_a_new_holder_and_reports_only_tokens_spent_beyond_its_grant() {
    let limit = Limit::new(1_000, 10.0);
    let mut fresh = Lease::new(limit, 1);
    fresh.decide(&limit, SECOND, || 2);
    assert_eq!(fresh.report(1, 3, SECOND).map(|report| report.holder), Some(1), "nothing has expired");
    let expiry = SECOND + LEASE_DURATION_US * 1000 - EXPIRY_MARGIN_NS;
    for (by_fallback, overflow) in [(0, 0), (34, 0), (45, 11)] {
        // 20 tokens of an earlier grant are spent and acknowledged.
        let mut lease = lease_with_tokens(limit, 20);
        spend_all(&mut lease, &limit, SECOND);
        lease.report(0, 3, SECOND);
        lease.apply_grant(&Grant { tokens: 40, ..Grant::default() }, SECOND);
        // Six of the 40 tokens are spent, and the local fallback spends more.
        for _ in 0..5 {
            lease.decide(&limit, SECOND, || 2);
        }
        for _ in 0..by_fallback {
            assert!(lease.decide_by_local_fallback(&limit, SECOND).is_admitted());
        }
        lease.decide(&limit, expiry - 1, || 2);
        assert_eq!((lease.holder, lease.leased), (1, 34));
        assert_eq!(lease.decide(&limit, expiry, || 2), LeaseDecision::Unknown);
        let report = lease.report(1, 3, expiry).unwrap();
        // The shared state counts all 40 tokens as spent.
        let totals = (report.holder, report.leased, report.spent, report.acknowledged);
        assert_eq!(totals, (2, 0, overflow, 0));
    }
}

#[test]
fn an_admission_states_the_remaining_tokens_and_the_time_until_the_bucket_is_full() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = lease_with_tokens(limit, 0);
    lease.report(1, 3, SECOND);
    let served = lease.apply_grant(&Grant { tokens: 41, remaining: 100, ..Grant::default() }, SECOND);
    let admit =
        |remaining, full_in_ms| Decision::Admit { remaining, full_in: Duration::from_millis(full_in_ms) };
    assert_eq!(served, Served { requests: 1, decision: admit(140, 86_000) });
    assert_eq!(lease.decide_waiting(SECOND), LeaseDecision::Decided(admit(139, 86_100)));
}

#[test]
fn a_report_is_due_when_a_quarter_of_the_grant_remains() {
    let limit = Limit::new(1_000, 10.0);
    for (tokens, spent, is_due) in [
        (40, 29, false),
        (40, 30, true),
        (40, 39, true),
        // Without tokens the next request triggers the report.
        (40, 40, false),
        (4, 2, false),
        (4, 3, true),
        (3, 2, false),
    ] {
        let mut lease = lease_with_tokens(limit, tokens);
        assert_eq!(spend_all(&mut lease, &limit, SECOND), tokens);
        let mut lease = lease_with_tokens(limit, tokens);
        for _ in 0..spent {
            lease.decide(&limit, SECOND, || 2);
        }
        assert_eq!(lease.should_report(SECOND), is_due, "{} of {tokens} remain", lease.leased);
        if is_due {
            lease.report(0, 3, SECOND);
            assert!(!lease.should_report(SECOND), "a report is in flight");
        }
    }
}

#[test]
fn a_lease_in_use_is_renewed_in_its_last_second() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = lease_with_tokens(limit, 40);
    let last_second = SECOND + LEASE_DURATION_US * 1000 - EXPIRY_MARGIN_NS - IDLE_NS;
    lease.decide(&limit, last_second, || 2);
    assert!(!lease.should_report(last_second));
    assert!(lease.should_report(last_second + 1));
    assert_eq!(spend_all(&mut lease, &limit, last_second + 1), 39);
    assert!(!lease.should_report(last_second + 1), "no token is left to renew");
}

#[test]
fn after_a_second_without_requests_leased_tokens_are_returned_and_spent_ones_reported() {
    let limit = Limit::new(1_000, 10.0);
    let idle = SECOND + IDLE_NS + 1;
    let mut with_tokens = lease_with_tokens(limit, 40);
    assert!(!with_tokens.should_report(idle - 1), "not idle yet");
    assert_eq!(with_tokens.clone().report(0, 3, idle - 1).map(|report| report.leased), Some(40));
    assert!(with_tokens.should_report(idle));
    let report = with_tokens.report(0, 3, idle).unwrap();
    assert_eq!((report.leased, report.wanted, report.reserve), (0, 0, 0));
    with_tokens.apply_grant(&Grant::default(), idle);
    assert!(!with_tokens.should_report(2 * idle), "nothing is left to report");

    let mut spent = lease_with_tokens(limit, 40);
    assert!(!spent.should_report_spent());
    assert_eq!(spend_all(&mut spent, &limit, SECOND), 40);
    assert!(spent.should_report_spent() && spent.should_report(idle));
    let report = spent.report_spent(idle).unwrap();
    assert_eq!((report.spent, report.acknowledged), (40, 0));
    assert!(!spent.should_report_spent() && !spent.should_report(idle), "a report is in flight");
    spent.apply_grant(&Grant::default(), idle);
    assert!(!spent.should_report_spent() && !spent.should_report(2 * idle), "acknowledged");
}

#[test]
fn tokens_can_be_spent_from_the_nanosecond_they_are_due_until_the_lease_expires() {
    let limit = Limit::new(100, 10.0);
    let mut lease = Lease::new(limit, 1);
    assert_eq!(lease.decide(&limit, SECOND, || 2), LeaseDecision::Unknown);
    lease.demand.per_second = 100.0;
    lease.report(1, 3, SECOND);
    lease.in_flight.as_mut().unwrap().request.as_mut().unwrap().wanted = 3;
    lease.apply_grant(&Grant { tokens: 3, due_in_us: 50_000, ..Grant::default() }, SECOND);
    let due = SECOND + 50_000_000;
    let refuse =
        |nanos| LeaseDecision::Decided(Decision::Refuse { retry_after: Some(Duration::from_nanos(nanos)) });
    let is_admitted =
        |step: LeaseDecision| matches!(step, LeaseDecision::Decided(decision) if decision.is_admitted());
    assert_eq!(lease.decide_waiting(due - 1), refuse(1));
    assert!(is_admitted(lease.decide_waiting(due)));
    assert_eq!(lease.decide_waiting(due), refuse(100_000_000), "the next token follows at the refill rate");
    let expiry = SECOND + LEASE_DURATION_US * 1000 - EXPIRY_MARGIN_NS;
    assert!(is_admitted(lease.clone().decide_waiting(expiry - 1)));
    let message = "in the shared state it expires half a second later";
    assert_eq!(lease.decide_waiting(expiry), LeaseDecision::Unknown, "{message}");
}

/// Regression, found by `cargo xtask fuzz redis_reply`: a corrupt response could block a key for any time.
#[test]
fn a_key_is_reported_again_after_ten_seconds_whatever_the_grant_says() {
    let limit = Limit::new(10, 1.0);
    let mut lease = Lease::new(limit, 1);
    lease.report(1, 3, SECOND);
    let (retry_in_us, recheck_in_us) = (60_000_000, u64::MAX);
    lease.apply_grant(&Grant { retry_in_us, recheck_in_us, ..Grant::default() }, SECOND);
    let retry_after = Some(Duration::from_secs(50) + Duration::from_nanos(1));
    let refused = LeaseDecision::Decided(Decision::Refuse { retry_after });
    assert_eq!(lease.decide_waiting(11 * SECOND - 1), refused);
    assert_eq!(lease.decide_waiting(11 * SECOND), LeaseDecision::Unknown);
}

/// Regression, found by `cargo xtask fuzz redis_reply`: any number of tokens in a corrupt response was spent.
#[test]
fn a_grant_of_more_tokens_than_requested_is_cut_to_the_request() {
    for tokens in [6, u32::MAX] {
        let limit = Limit::new(100, 10.0);
        let mut lease = Lease::new(limit, 1);
        let report = lease.report(5, 3, SECOND).unwrap();
        assert_eq!((report.needed, report.wanted), (5, 5));
        let served = lease.apply_grant(&Grant { tokens, ..Grant::default() }, SECOND).requests;
        assert_eq!((served, spend_all(&mut lease, &limit, SECOND)), (5, 0));
        // The cap also holds if the sum with tokens already leased would overflow.
        assert_eq!(lease.report(2, 3, SECOND).map(|report| report.wanted), Some(16));
        let served = lease.apply_grant(&Grant { tokens, ..Grant::default() }, SECOND).requests;
        assert_eq!(served + spend_all(&mut lease, &limit, SECOND), tokens.min(16));
    }
}

#[test]
fn a_lease_publishes_all_tokens_but_those_that_trigger_a_report() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = lease_with_tokens(limit, 40);
    let credit = lease.publish(SECOND).unwrap();
    assert_eq!((credit.word.tokens(), credit.remaining, credit.limit), (29, 11, limit));
    assert!(credit.word.decide(lease.expires_ns - 2_000_000).is_some());
    assert!(credit.word.decide(lease.expires_ns).is_none());
    lease.reconcile(29, 0, SECOND);
    assert!(!lease.should_report(SECOND) && lease.publish(SECOND).is_none());
    assert_eq!(lease.decide(&limit, SECOND, || 2), LeaseDecision::Decided(Decision::admit(&limit, 10)));
    assert!(lease.should_report(SECOND), "this token triggers the report");
    lease.report(0, 3, SECOND);
    let published = lease.publish(SECOND).map(|credit| credit.word.tokens());
    assert_eq!(published, Some(10), "no further report is to be triggered");
    // Grants below four tokens are published whole.
    let few = lease_with_tokens(limit, 3);
    assert_eq!(few.publish(SECOND).map(|credit| credit.word.tokens()), Some(3));
    assert!(few.publish(few.expires_ns).is_none(), "the lease has expired");
}

#[test]
fn reserved_tokens_are_not_published_and_until_they_are_due_requests_are_refused() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = lease_with_demand(limit, 100.0);
    lease.report(0, 3, SECOND);
    lease.apply_grant(&Grant { tokens: 5, due_in_us: 50_000, ..Grant::default() }, SECOND);
    let due = SECOND + 50_000_000;
    let credit = lease.publish(SECOND).unwrap();
    assert_eq!((credit.word.decide(SECOND), credit.retry_at_ns), (Some(CreditDecision::Refuse), due));
    assert_eq!(credit.word.decide(due), None);
    assert!(lease.publish(due).is_none(), "the lease spends each of them");
}

#[test]
fn a_lease_without_tokens_publishes_a_refusal_until_the_next_report_is_useful() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = lease_with_demand(limit, 100.0);
    assert!(lease.publish(SECOND).is_none(), "nothing is known yet");
    lease.report(0, 3, SECOND);
    lease.apply_grant(&Grant { recheck_in_us: 30_000, retry_in_us: 90_000, ..Grant::default() }, SECOND);
    let credit = lease.publish(SECOND).unwrap();
    assert_eq!(credit.word.decide(SECOND), Some(CreditDecision::Refuse));
    assert_eq!(credit.retry_at_ns, SECOND + 90_000_000);
    assert!(lease.publish(SECOND + 30_000_000).is_none());
}

#[test]
fn reconciling_a_credit_counts_its_decisions() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = lease_with_tokens(limit, 40);
    lease.demand.per_second = 0.0;
    lease.reconcile(20, 30, 2 * SECOND);
    assert_eq!((lease.leased, lease.spent, lease.last_request_ns()), (20, 20, 2 * SECOND));
    let mut one_by_one = Demand { per_second: 0.0, last_request_ns: SECOND };
    (1..=50).for_each(|i| one_by_one.count(1, SECOND + i * SECOND / 50));
    let (expected, actual) = (one_by_one.per_second, lease.demand.per_second);
    assert!((expected - actual).abs() < 1e-6, "{expected} and {actual}");
    lease.reconcile(0, 0, SECOND);
    assert_eq!(lease.last_request_ns(), 2 * SECOND, "time does not step back");
    let before = lease.demand.per_second;
    lease.reconcile(0, 0, 3 * SECOND);
    assert_eq!(lease.last_request_ns(), 3 * SECOND);
    assert!((lease.demand.per_second - before).abs() < 1e-9, "no request, no demand");
}

/// Regression: a request was refused because its thread waited for the lock after it had read the clock, and
/// the grant arrived in between.
#[test]
fn a_request_that_read_the_clock_before_the_grant_arrived_gets_a_token() {
    let limit = Limit::new(1_000, 10.0);
    let lease = lease_with_tokens(limit, 40);
    assert_eq!(spend_all(&mut lease.clone(), &limit, SECOND - 1_000_000), 40);
    assert!(matches!(lease.publish(SECOND - 1_000_000), Some(credit) if credit.word.tokens() > 0));
}
