//! What a lease decides, asks for and tells, fact by fact.

use super::*;

const SECOND: u64 = 1_000_000_000;

fn spends(lease: &mut Lease, limit: &Limit, now_ns: u64) -> u32 {
    let decided = |_: &u32| match lease.decide(limit, now_ns, || 2) {
        Step::Decided(decision) => decision.is_admitted(),
        Step::Ask => false,
    };
    (0..1_000).filter(decided).count() as u32
}

/// Its limit may have been edited since: whoever asks next brings the new one along.
#[test]
fn of_a_key_that_nobody_asks_about_what_is_held_is_renewed_and_no_more_is_asked_for() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = Lease::new(limit, 1);
    assert_eq!(spends(&mut lease, &limit, SECOND), 0);
    lease.report(1, 3, SECOND);
    let tokens = lease.asking.unwrap().wanted;
    lease.granted(&Grant { tokens, ..Grant::default() }, SECOND);
    let wanted = |lease: &mut Lease, now| lease.report(0, 3, now).map(|told| (told.held, told.wanted));
    assert!(tokens > 20);
    assert_eq!(wanted(&mut lease.clone(), SECOND + PAUSE_NS), Some((tokens - 1, tokens)), "just asked");
    assert_eq!(wanted(&mut lease, SECOND + PAUSE_NS + 1), Some((tokens - 1, 0)), "a while ago");
    lease.granted(&Grant::default(), SECOND + PAUSE_NS + 1);
    assert_eq!(spends(&mut lease, &limit, SECOND + PAUSE_NS + 1), tokens - 1, "what is held may be spent");
}

/// A lease that asked for many at one second, and was granted so many.
fn holds(limit: Limit, tokens: u32) -> Lease {
    let mut lease = Lease { demand: 100.0, seen_ns: SECOND, ..Lease::new(limit, 1) };
    assert!(lease.report(0, 3, SECOND).unwrap().wanted >= tokens);
    lease.granted(&Grant { tokens, ..Grant::default() }, SECOND);
    lease
}

#[test]
fn as_many_are_wanted_as_come_in_a_second_and_no_more_than_half_a_share() {
    // Of so many tokens, by one of so many replicas, that is asked so often: wanted, and ahead.
    for (capacity, replicas, demand, wanted, ahead) in [
        (1_000, 5, 60.0, 60, 6),
        (1_000, 5, 61.0, 61, 7),
        (1_000, 5, 500.0, 100, 50),
        (20, 5, 500.0, 2, 50),
        // Shared token by token: those that wait.
        (19, 5, 500.0, 1, 0),
        (3, 1, 500.0, 1, 0),
        (4, 1, 500.0, 2, 50),
    ] {
        let limit = Limit::new(capacity, 10.0);
        let mut lease = Lease { demand, seen_ns: SECOND, ..Lease::new(limit, 1) };
        let report = lease.report(1, replicas, SECOND + PAUSE_NS).unwrap();
        assert_eq!((report.wanted, report.ahead), (wanted, ahead), "{capacity} tokens, {replicas} replicas");
    }
}

#[test]
fn what_was_told_and_granted_to_those_who_wait_is_not_told_again() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = holds(limit, 40);
    assert_eq!(spends(&mut lease, &limit, SECOND), 40);
    assert_eq!(lease.report(2, 3, SECOND).map(|told| (told.used, told.heard)), Some((40, 0)));
    lease.granted(&Grant { tokens: 2, ..Grant::default() }, SECOND);
    assert_eq!(lease.report(1, 3, SECOND).map(|told| (told.used, told.heard)), Some((42, 42)));
}

#[test]
fn what_had_no_answer_is_told_again() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = holds(limit, 40);
    assert!(lease.may_be_forgotten());
    spends(&mut lease, &limit, SECOND);
    let told = lease.report(0, 3, SECOND).unwrap();
    assert!(!lease.may_be_forgotten());
    assert_eq!(lease.report(0, 3, SECOND), None, "one is on its way");
    lease.failed();
    assert!(lease.may_be_forgotten());
    assert_eq!(lease.report(0, 3, SECOND), Some(Report { number: told.number + 1, ..told }));
}

#[test]
fn a_lease_is_over_when_nobody_asks_nothing_is_held_and_all_is_told() {
    let limit = Limit::new(1_000, 10.0);
    let seen = SECOND;
    let mut lease = holds(limit, 40);
    assert!(!lease.is_over(seen + OVER_NS + 1), "it holds some");
    spends(&mut lease, &limit, seen);
    assert!(!lease.is_over(seen + OVER_NS + 1), "nobody has heard what it used");
    lease.tell(seen);
    assert!(!lease.is_over(seen + OVER_NS + 1), "somebody may be about to hear it");
    lease.granted(&Grant::default(), seen);
    assert!(!lease.is_over(seen + OVER_NS), "it may be asked again");
    assert!(lease.is_over(seen + OVER_NS + 1));
    // A share of ten tokens, of which half are gone and one more, is full again when six have come.
    let share = Limit::new(10, 0.1);
    assert!(lease.decide_alone(&share, seen).is_admitted());
    lease.tell(seen);
    lease.granted(&Grant::default(), seen);
    assert!(!lease.is_over(seen + 60 * SECOND - 1), "its share would be given again");
    assert!(lease.is_over(seen + 60 * SECOND));
}

/// Cut just before an outage and raised again in it, a limit was admitted twice: once before, and nearly once
/// more by shares of which half of the small one counted as used.
#[test]
fn of_what_an_edit_adds_to_a_share_half_counts_as_used_and_once_only() {
    let share = |capacity| Limit::new(capacity, 0.001);
    let mut lease = Lease::new(share(100), 1);
    let admits = |lease: &mut Lease, capacity| {
        (0..200).filter(|_| lease.decide_alone(&share(capacity), SECOND).is_admitted()).count()
    };
    for (capacity, admitted) in [(11, 5), (100, 44), (11, 0), (100, 0), (103, 1), (102, 0), (103, 0)] {
        assert_eq!(admits(&mut lease, capacity), admitted, "{capacity}");
    }
    // Whatever was admitted, the next outage gives no new half.
    lease.report(0, 3, SECOND);
    lease.granted(&Grant::default(), SECOND);
    assert_eq!(admits(&mut lease, 11), 0);
    assert_eq!(admits(&mut lease, 103), 0);
}

#[test]
fn each_outage_begins_with_half_of_a_share_that_has_filled_up_meanwhile() {
    let share = Limit::new(100, 1.0);
    let mut lease = Lease::new(share, 1);
    for second in [1, 1_000, 2_000] {
        let admits = |_: &u32| lease.decide_alone(&share, second * SECOND).is_admitted();
        assert_eq!((0..200).filter(admits).count(), 50, "at {second} s");
        lease.report(0, 3, second * SECOND);
        lease.granted(&Grant::default(), second * SECOND);
    }
}

#[test]
fn demand_is_what_was_asked_for_in_the_last_second() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = Lease::new(limit, 1);
    for request in 0..400 {
        lease.decide(&limit, SECOND + request * SECOND / 50, || 2);
    }
    assert!((lease.demand - 50.0).abs() < 0.1, "{}", lease.demand);
    assert_eq!(lease.seen_ns(), SECOND + 399 * SECOND / 50);
    lease.decide(&limit, SECOND, || 2);
    assert_eq!(lease.seen_ns(), SECOND + 399 * SECOND / 50, "a clock that stepped back");
    lease.decide(&limit, 60 * SECOND, || 2);
    assert!((lease.demand - 1.0).abs() < 1e-6, "{}", lease.demand);
}

/// A purse tells only how many came.
#[test]
fn requests_that_are_counted_together_are_as_many_as_those_that_came_evenly() {
    let limit = Limit::new(1_000, 10.0);
    for (requests, ms) in [(10, 100_u64), (100, 500), (20, 0), (5, 5_000)] {
        let mut one_by_one = Lease { demand: 60.0, seen_ns: SECOND, ..Lease::new(limit, 1) };
        let mut together = one_by_one.clone();
        for request in 1..=requests {
            one_by_one.count(1, SECOND + u64::from(request) * ms * 1_000_000 / u64::from(requests));
        }
        together.count(requests, SECOND + ms * 1_000_000);
        let (one, other) = (one_by_one.demand, together.demand);
        assert!((one - other).abs() < 1e-6, "{requests} in {ms} ms: {one} and {other}");
    }
}

#[test]
fn after_its_end_a_lease_has_another_name_and_tells_only_what_was_used_beyond_it() {
    let limit = Limit::new(1_000, 10.0);
    let mut fresh = Lease::new(limit, 1);
    fresh.decide(&limit, SECOND, || 2);
    assert_eq!(fresh.report(1, 3, SECOND).map(|told| told.holder), Some(1), "nothing has ended");
    let ends = SECOND + LEASE_US * 1000 - MARGIN_NS;
    for (alone, beyond) in [(0, 0), (34, 0), (45, 11)] {
        // Twenty that it had before were used, and told.
        let mut lease = holds(limit, 20);
        spends(&mut lease, &limit, SECOND);
        lease.report(0, 3, SECOND);
        lease.granted(&Grant { tokens: 40, ..Grant::default() }, SECOND);
        // Of the forty six are spent, and some more while the shared state is gone.
        for _ in 0..5 {
            lease.decide(&limit, SECOND, || 2);
        }
        for _ in 0..alone {
            assert!(lease.decide_alone(&limit, SECOND).is_admitted());
        }
        lease.decide(&limit, ends - 1, || 2);
        assert_eq!((lease.holder, lease.held), (1, 34));
        assert_eq!(lease.decide(&limit, ends, || 2), Step::Ask);
        let told = lease.report(1, 3, ends).unwrap();
        // There all forty count as spent.
        assert_eq!((told.holder, told.held, told.used, told.heard), (2, 0, beyond, 0));
    }
}

#[test]
fn an_admission_says_what_is_left_here_and_to_all_and_when_the_bucket_is_full() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = holds(limit, 0);
    lease.report(1, 3, SECOND);
    let (served, told) = lease.granted(&Grant { tokens: 41, left: 100, ..Grant::default() }, SECOND);
    let left =
        |remaining, full_in_ms| Decision::Admit { remaining, full_in: Duration::from_millis(full_in_ms) };
    assert_eq!((served, told), (1, left(140, 86_000)));
    assert_eq!(lease.again(SECOND), Step::Decided(left(139, 86_100)));
}

#[test]
fn more_is_asked_for_at_a_quarter() {
    let limit = Limit::new(1_000, 10.0);
    for (tokens, spent, wants) in [
        (40, 29, false),
        (40, 30, true),
        (40, 39, true),
        (40, 40, false),
        (4, 2, false),
        (4, 3, true),
        (3, 2, false),
    ] {
        let mut lease = holds(limit, tokens);
        assert_eq!(spends(&mut lease, &limit, SECOND), tokens);
        let mut lease = holds(limit, tokens);
        for _ in 0..spent {
            lease.decide(&limit, SECOND, || 2);
        }
        // Of one that holds nothing whoever asks next asks for more.
        assert_eq!(lease.wants_to_report(SECOND), wants, "{} of {tokens} are left", lease.held);
        if wants {
            lease.report(0, 3, SECOND);
            assert!(!lease.wants_to_report(SECOND), "it is on its way");
        }
    }
}

#[test]
fn a_lease_is_renewed_in_its_last_second_while_it_is_in_use() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = holds(limit, 40);
    let ends = SECOND + LEASE_US * 1000 - MARGIN_NS;
    lease.decide(&limit, ends - IDLE_NS, || 2);
    assert!(!lease.wants_to_report(ends - IDLE_NS));
    assert!(lease.wants_to_report(ends - IDLE_NS + 1));
    assert_eq!(spends(&mut lease, &limit, ends - IDLE_NS + 1), 39);
    assert!(!lease.wants_to_report(ends - IDLE_NS + 1), "nothing is held any more");
}

#[test]
fn what_is_held_is_given_back_and_what_was_used_is_told_after_a_second_without_requests() {
    let limit = Limit::new(1_000, 10.0);
    let quiet = SECOND + IDLE_NS + 1;
    let mut held = holds(limit, 40);
    assert!(!held.wants_to_report(quiet - 1), "it may be asked again");
    assert_eq!(held.clone().report(0, 3, quiet - 1).map(|told| told.held), Some(40));
    assert!(held.wants_to_report(quiet));
    let told = held.report(0, 3, quiet).unwrap();
    assert_eq!((told.held, told.wanted, told.ahead), (0, 0, 0));
    held.granted(&Grant::default(), quiet);
    assert!(!held.wants_to_report(2 * quiet), "there is nothing to tell");

    let mut used = holds(limit, 40);
    assert!(!used.has_to_tell());
    assert_eq!(spends(&mut used, &limit, SECOND), 40);
    assert!(used.has_to_tell() && used.wants_to_report(quiet));
    assert_eq!(used.tell(quiet).map(|told| (told.used, told.heard)), Some((40, 0)));
    assert!(!used.has_to_tell() && !used.wants_to_report(quiet), "it is on its way");
    used.granted(&Grant::default(), quiet);
    assert!(!used.has_to_tell() && !used.wants_to_report(2 * quiet), "it was told");
}

#[test]
fn tokens_may_be_spent_from_the_nanosecond_on_in_which_they_are_due_until_the_lease_ends() {
    let limit = Limit::new(100, 10.0);
    let mut lease = Lease::new(limit, 1);
    assert_eq!(lease.decide(&limit, SECOND, || 2), Step::Ask);
    lease.demand = 100.0;
    lease.report(1, 3, SECOND);
    lease.asking.as_mut().unwrap().wanted = 3;
    lease.granted(&Grant { tokens: 3, first_in_us: 50_000, ..Grant::default() }, SECOND);
    let due = SECOND + 50_000_000;
    let retry_after =
        |left| Step::Decided(Decision::Refuse { retry_after: Some(Duration::from_nanos(left)) });
    assert_eq!(lease.again(due - 1), retry_after(1));
    assert!(matches!(lease.again(due), Step::Decided(decision) if decision.is_admitted()));
    assert_eq!(lease.again(due), retry_after(100_000_000), "the next one comes at the bucket's rate");
    let ends = SECOND + LEASE_US * 1000 - MARGIN_NS;
    assert!(matches!(lease.clone().again(ends - 1), Step::Decided(decision) if decision.is_admitted()));
    assert_eq!(lease.again(ends), Step::Ask, "there it ends half a second later");
}

/// Found by `cargo xtask fuzz redis_reply`: a broken answer could make a key wait for as long as it said.
#[test]
fn a_key_is_asked_about_again_after_ten_seconds_whatever_an_answer_says() {
    let limit = Limit::new(10, 1.0);
    let mut lease = Lease::new(limit, 1);
    lease.report(1, 3, SECOND);
    let (retry_in_us, again_in_us) = (60_000_000, u64::MAX);
    lease.granted(&Grant { retry_in_us, again_in_us, ..Grant::default() }, SECOND);
    let retry_after = Some(Duration::from_secs(50));
    assert_eq!(lease.again(11 * SECOND - 1), {
        let retry_after = retry_after.map(|left| left + Duration::from_nanos(1));
        Step::Decided(Decision::Refuse { retry_after })
    });
    assert_eq!(lease.again(11 * SECOND), Step::Ask);
}

/// Found by `cargo xtask fuzz redis_reply`: a broken answer was spent, whatever it said.
#[test]
fn a_grant_of_more_than_was_asked_for_gives_no_more() {
    for tokens in [6, u32::MAX] {
        let limit = Limit::new(100, 10.0);
        let mut lease = Lease::new(limit, 1);
        let report = lease.report(5, 3, SECOND).unwrap();
        assert_eq!((report.needed, report.wanted), (5, 5));
        let (served, _) = lease.granted(&Grant { tokens, ..Grant::default() }, SECOND);
        assert_eq!((served, spends(&mut lease, &limit, SECOND)), (5, 0));
        // The same while tokens are held: their sum has to fit into its number.
        assert_eq!(lease.report(2, 3, SECOND).map(|report| report.wanted), Some(16));
        let (served, _) = lease.granted(&Grant { tokens, ..Grant::default() }, SECOND);
        assert_eq!(served + spends(&mut lease, &limit, SECOND), tokens.min(16));
    }
}

#[test]
fn all_but_what_more_is_asked_for_with_is_lent_until_the_lease_ends() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = holds(limit, 40);
    let loan = lease.lend(SECOND).unwrap();
    assert_eq!((loan.purse.tokens(), loan.beside, loan.limit), (29, 11, limit));
    assert!(
        loan.purse.decide(lease.ends_ns - 2_000_000).is_some() && loan.purse.decide(lease.ends_ns).is_none()
    );
    lease.settle(29, 0, SECOND);
    assert!(!lease.wants_to_report(SECOND) && lease.lend(SECOND).is_none());
    assert_eq!(lease.decide(&limit, SECOND, || 2), Step::Decided(admitted(&limit, 10)));
    assert!(lease.wants_to_report(SECOND), "the token with which more is asked for is spent");
    lease.report(0, 3, SECOND);
    assert_eq!(
        lease.lend(SECOND).map(|loan| loan.purse.tokens()),
        Some(10),
        "nothing more is to be asked for"
    );
    // Of so few nothing is kept: they are asked for one by one.
    let few = holds(limit, 3);
    assert_eq!(few.lend(SECOND).map(|loan| loan.purse.tokens()), Some(3));
    assert!(few.lend(few.ends_ns).is_none(), "the lease has ended");
}

#[test]
fn what_is_reserved_ahead_is_not_lent_and_until_it_is_due_requests_are_refused() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = Lease { demand: 100.0, seen_ns: SECOND, ..Lease::new(limit, 1) };
    lease.report(0, 3, SECOND);
    lease.granted(&Grant { tokens: 5, first_in_us: 50_000, ..Grant::default() }, SECOND);
    let due = SECOND + 50_000_000;
    let loan = lease.lend(SECOND).unwrap();
    assert_eq!((loan.purse.decide(SECOND), loan.told_until_ns), (Some(Said::Refuse), due));
    assert_eq!(loan.purse.decide(due), None);
    assert!(lease.lend(due).is_none(), "each is spent by the lease");
}

#[test]
fn until_there_are_tokens_again_requests_are_refused_and_told_when_to_come() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = Lease { demand: 100.0, seen_ns: SECOND, ..Lease::new(limit, 1) };
    assert!(lease.lend(SECOND).is_none(), "nothing is known");
    lease.report(0, 3, SECOND);
    lease.granted(&Grant { again_in_us: 30_000, retry_in_us: 90_000, ..Grant::default() }, SECOND);
    let loan = lease.lend(SECOND).unwrap();
    assert_eq!((loan.purse.decide(SECOND), loan.told_until_ns), (Some(Said::Refuse), SECOND + 90_000_000));
    assert!(lease.lend(SECOND + 30_000_000).is_none());
}

#[test]
fn what_was_decided_by_a_purse_is_counted_when_it_is_taken_back() {
    let limit = Limit::new(1_000, 10.0);
    let mut lease = holds(limit, 40);
    lease.demand = 0.0;
    lease.settle(20, 30, 2 * SECOND);
    assert_eq!((lease.held, lease.used, lease.seen_ns()), (20, 20, 2 * SECOND));
    // As many as would be counted one by one.
    let mut one_by_one = Lease { demand: 0.0, seen_ns: SECOND, ..Lease::new(limit, 2) };
    (1..=50).for_each(|i| one_by_one.count(1, SECOND + i * SECOND / 50));
    assert!((lease.demand - one_by_one.demand).abs() < 1e-6, "{} {}", lease.demand, one_by_one.demand);
    lease.settle(0, 0, SECOND);
    assert_eq!(lease.seen_ns(), 2 * SECOND, "time does not go back");
    let demand = lease.demand;
    lease.settle(0, 0, 3 * SECOND);
    assert!(lease.seen_ns() == 3 * SECOND && (lease.demand - demand).abs() < 1e-9, "nobody asked");
}

/// It was refused: its thread had to wait between the look at the clock and the lock, and the answer came first.
#[test]
fn a_request_that_looked_at_the_clock_before_the_answer_came_gets_a_token() {
    let limit = Limit::new(1_000, 10.0);
    let lease = holds(limit, 40);
    assert_eq!(spends(&mut lease.clone(), &limit, SECOND - 1_000_000), 40);
    assert!(matches!(lease.lend(SECOND - 1_000_000), Some(loan) if loan.purse.tokens() > 0));
}
