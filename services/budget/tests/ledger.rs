//! The daily limit, against both databases.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use jiff::Timestamp;
use phase6_budget::{
    SERVICE,
    answers::Answers,
    cohort::{Cohorts, Recorded, Workflow},
    gate::Gate,
    ledger::{Ledger, NotReserved, Reservation, Settlement, until_tomorrow},
    money::Micros,
    policy::{Policies, PolicyChange, ProviderPolicy},
    provider::{ProviderId, Usage},
    routing::{Criticality, Task},
};
use phase6_store::{
    PoolLimits, Row, Store, on_both_databases, sql,
    testing::{Kind, TestDatabase},
};

async fn store(kind: Kind) -> (Store, TestDatabase) {
    let fresh = TestDatabase::create(kind).await;
    let store = Store::connect(&fresh.url, PoolLimits::default()).await.unwrap();
    store.migrate("budget", SERVICE.needs.store.unwrap()).await.unwrap();
    (store, fresh)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NOON: &str = "2026-11-24T12:00:00Z";

fn paid(cost: i64) -> Settlement {
    Settlement {
        cost: Micros::new(cost),
        estimated: false,
        usage: Some(Usage { input: 3, output: 4 }),
        model: "m".into(),
        task: Task::General,
        outcome: "success",
        took: Duration::from_millis(250),
    }
}

async fn reserve(ledger: &Ledger, amount: i64, now: &str) -> Result<Reservation, NotReserved> {
    ledger.reserve(ProviderId::OpenAi, Micros::new(amount), at(now)).await
}

async fn used_and_reserved(ledger: &Ledger, now: &str) -> (i64, i64) {
    let day = ledger.day(at(now)).await.unwrap();
    (day.used.get(), day.reserved.get())
}

async fn a_call_is_charged_what_it_cost_and_the_rest_comes_back(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let ledger = Ledger::new(store, Micros::new(1_000));
    let reservation = reserve(&ledger, 600, NOON).await.unwrap();
    assert_eq!(used_and_reserved(&ledger, NOON).await, (0, 600));
    ledger.settle(&reservation, &paid(150), at(NOON)).await.unwrap();
    assert_eq!(used_and_reserved(&ledger, NOON).await, (150, 0));
    let day = ledger.day(at(NOON)).await.unwrap();
    assert_eq!((day.remaining.get(), day.calls["openai"], day.warning, day.blocked), (850, 1, false, false));
    let history = ledger.history().await.unwrap();
    assert_eq!(
        (history[0].cost.get(), history[0].outcome.as_str(), history[0].latency_ms),
        (150, "success", 250)
    );
}

/// In the original nothing was ever charged and the limit never blocked.
async fn the_limit_blocks_what_would_pass_it(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let ledger = Ledger::new(store, Micros::new(1_000));
    let first = reserve(&ledger, 700, NOON).await.unwrap();
    let refused = reserve(&ledger, 301, NOON).await.unwrap_err();
    let NotReserved::Exceeded { used, reserved, wanted, .. } = refused else { panic!("{refused}") };
    assert_eq!((used.get(), reserved.get(), wanted.get()), (0, 700, 301));
    let second = reserve(&ledger, 300, NOON).await.unwrap();
    ledger.settle(&first, &paid(700), at(NOON)).await.unwrap();
    let day = ledger.day(at(NOON)).await.unwrap();
    assert!(
        !day.blocked && !day.warning && (day.percent - 70.0).abs() < 1e-9,
        "what is set aside is not spent: {day:?}"
    );
    ledger.settle(&second, &paid(300), at(NOON)).await.unwrap();
    let day = ledger.day(at(NOON)).await.unwrap();
    assert!(day.blocked && day.percent >= 100.0, "{day:?}");
    reserve(&ledger, 0, NOON).await.expect("what costs nothing is never blocked");
}

async fn concurrency_cannot_pass_the_limit(kind: Kind) {
    let (store, fresh) = store(kind).await;
    // A second pool, as a second replica has.
    let other = Store::connect(&fresh.url, PoolLimits::default()).await.unwrap();
    let ledgers = [Ledger::new(store, Micros::new(1_000)), Ledger::new(other, Micros::new(1_000))];
    let tries: Vec<_> = (0..60)
        .map(|i| {
            let ledger = ledgers[i % 2].clone();
            tokio::spawn(async move {
                match reserve(&ledger, 70, NOON).await {
                    Ok(reservation) => {
                        ledger.settle(&reservation, &paid(70), at(NOON)).await.unwrap();
                        true
                    }
                    Err(NotReserved::Exceeded { .. }) => false,
                    Err(NotReserved::Store(error)) => panic!("{error:?}"),
                }
            })
        })
        .collect();
    let mut granted = 0;
    for one in tries {
        granted += u32::from(one.await.unwrap());
    }
    assert_eq!(granted, 14, "fourteen times seventy fit into a thousand");
    assert_eq!(used_and_reserved(&ledgers[0], NOON).await, (980, 0));
}

async fn a_new_utc_day_begins_with_nothing_used(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let ledger = Ledger::new(store, Micros::new(1_000));
    let late = reserve(&ledger, 1_000, "2026-11-24T23:59:59Z").await.unwrap();
    reserve(&ledger, 1_000, "2026-11-25T00:00:00Z").await.unwrap();
    ledger.settle(&late, &paid(900), at("2026-11-25T00:00:05Z")).await.unwrap();
    assert_eq!(
        used_and_reserved(&ledger, "2026-11-24T23:59:59Z").await,
        (900, 0),
        "charged to the day it began"
    );
    assert_eq!(used_and_reserved(&ledger, "2026-11-25T01:00:00Z").await, (0, 1_000));
    assert_eq!(until_tomorrow(at("2026-11-24T23:59:50Z")), Duration::from_secs(10));
}

async fn a_dead_holder_s_reservation_is_charged_once(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let ledger = Ledger::new(store, Micros::new(1_000));
    let reservation = reserve(&ledger, 400, NOON).await.unwrap();
    assert_eq!(ledger.reclaim(at("2026-11-24T12:05:00Z")).await.unwrap(), 0, "it may still be alive");
    assert_eq!(ledger.reclaim(at("2026-11-24T12:11:00Z")).await.unwrap(), 1);
    assert_eq!(used_and_reserved(&ledger, NOON).await, (400, 0));
    ledger.settle(&reservation, &paid(100), at("2026-11-24T12:12:00Z")).await.unwrap();
    assert_eq!(used_and_reserved(&ledger, NOON).await, (400, 0), "late, and already charged");
    assert_eq!(ledger.reclaim(at("2026-11-24T13:00:00Z")).await.unwrap(), 0);
}

async fn two_that_reclaim_at_the_same_moment_charge_each_reservation_once(kind: Kind) {
    let (store, fresh) = store(kind).await;
    // A second pool, as a second replica has.
    let other = Store::connect(&fresh.url, PoolLimits::default()).await.unwrap();
    let ledgers = [Ledger::new(store, Micros::new(1_000)), Ledger::new(other, Micros::new(1_000))];
    for _ in 0..20 {
        reserve(&ledgers[0], 30, NOON).await.unwrap();
    }
    let later = at("2026-11-24T12:11:00Z");
    let [one, another] =
        ledgers.clone().map(|ledger| tokio::spawn(async move { ledger.reclaim(later).await }));
    let charged = one.await.unwrap().unwrap() + another.await.unwrap().unwrap();
    assert_eq!(charged, 20);
    assert_eq!(used_and_reserved(&ledgers[0], NOON).await, (600, 0));
    assert_eq!(ledgers[0].history().await.unwrap().len(), 20);
}

async fn calls_are_forgotten_after_ninety_days(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let ledger = Ledger::new(store, Micros::new(1_000));
    for moment in ["2026-08-26T11:59:59Z", "2026-08-26T12:00:00Z"] {
        let reservation = reserve(&ledger, 10, moment).await.unwrap();
        ledger.settle(&reservation, &paid(10), at(moment)).await.unwrap();
    }
    ledger.reclaim(at("2026-11-24T11:59:59Z")).await.unwrap();
    assert_eq!(ledger.history().await.unwrap().len(), 2, "ninety days are remembered");
    ledger.reclaim(at(NOON)).await.unwrap();
    let left: Vec<_> = ledger.history().await.unwrap().iter().map(|call| call.t).collect();
    assert_eq!(left, [at("2026-08-26T12:00:00Z").as_millisecond()]);
}

/// The original's caches of answers grew without end.
async fn a_sweep_leaves_no_expired_answer_and_ten_thousand_others(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let now = at(NOON).as_millisecond();
    // Twenty have expired, the last of them now.
    sql("INSERT INTO budget_answers (id, provider, model, answer, expires_ms)
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10030)
         SELECT 'answer ' || n, 'openai', 'm', 'yes', n - 20 + $1 FROM numbers")
    .bind(now)
    .run(&store)
    .await
    .unwrap();
    Answers::new(store.clone()).sweep(at(NOON)).await.unwrap();
    let row =
        sql("SELECT COUNT(*), MIN(expires_ms), MAX(expires_ms) FROM budget_answers").first(&store).await;
    let row = row.unwrap().unwrap();
    let (count, soonest, latest): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((count, soonest, latest), (10_000, now + 11, now + 10_010), "the soonest to expire left");
}

async fn outcomes_are_summed_by_provider_and_task(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let ledger = Ledger::new(store, Micros::new(10_000));
    for outcome in ["success", "success", "failed"] {
        let reservation = reserve(&ledger, 10, NOON).await.unwrap();
        ledger.settle(&reservation, &Settlement { outcome, ..paid(6) }, at(NOON)).await.unwrap();
    }
    let quality = ledger.quality().await.unwrap();
    assert_eq!(quality.len(), 1);
    assert_eq!(
        (quality[0].provider.as_str(), quality[0].task.as_str(), quality[0].outcomes),
        ("openai", "general", 3)
    );
    assert!((quality[0].success_rate - 2.0 / 3.0).abs() < 1e-9);
    assert!((quality[0].avg_latency - 250.0).abs() < 1e-9);
}

async fn a_workflow_is_booked_once(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let cohorts = Cohorts::new(store);
    let workflow = |cost: i64| Workflow {
        cohort: "c".into(),
        workflow: "w".into(),
        provider: ProviderId::OpenAi,
        cost: Micros::new(cost),
        gain: 2.0,
    };
    let now = Timestamp::now();
    assert_eq!(cohorts.record(&workflow(500), now).await.unwrap(), Recorded::Now);
    assert_eq!(cohorts.record(&workflow(500), now).await.unwrap(), Recorded::Before);
    assert_eq!(cohorts.record(&workflow(501), now).await.unwrap(), Recorded::Differs);
    let metrics = cohorts.metrics("c").await.unwrap();
    assert_eq!(
        (metrics.total_spent.get(), metrics.spent_this_month.get(), metrics.spent_today.get()),
        (500, 500, 500)
    );
    assert_eq!((metrics.workflows_executed, metrics.capabilities_activated), (1, 2.0));
    assert_eq!(metrics.provider_distribution["openai"].count, 1);
    assert_eq!(cohorts.metrics("nobody").await.unwrap().workflows_executed, 0);
    assert_eq!(cohorts.export().await.unwrap(), [metrics]);
}

async fn last_month_s_costs_are_not_this_month_s(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let cohorts = Cohorts::new(store);
    let workflow = Workflow {
        cohort: "c".into(),
        workflow: "w".into(),
        provider: ProviderId::Ollama,
        cost: Micros::new(500),
        gain: 1.0,
    };
    let long_ago = Timestamp::now().checked_sub(Duration::from_hours(40 * 24)).unwrap();
    cohorts.record(&workflow, long_ago).await.unwrap();
    let metrics = cohorts.metrics("c").await.unwrap();
    assert_eq!((metrics.total_spent.get(), metrics.spent_this_month.get()), (500, 0));
}

/// The sum did not fit into a whole number, and the cohort could not be read any more.
async fn costs_that_add_up_to_more_than_a_number_can_hold_are_shown_as_the_most(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    // As they could be booked once.
    sql("INSERT INTO budget_workflows (cohort, workflow, provider, cost_micros, gain, at_ms, day)
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10000)
         SELECT 'c', 'workflow ' || n, 'openai', 1000000000000000, 1.0, 1, '2026-11-24' FROM numbers")
    .run(&store)
    .await
    .unwrap();
    let cohorts = Cohorts::new(store);
    let metrics = cohorts.metrics("c").await.unwrap();
    assert_eq!((metrics.total_spent.get(), metrics.workflows_executed), (1_000_000_000_000_000, 10_000));
    assert_eq!(cohorts.export().await.unwrap(), [metrics]);
}

async fn what_was_set_aside_for_nothing_comes_back(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let ledger = Ledger::new(store, Micros::new(1_000));
    let reservation = reserve(&ledger, 600, NOON).await.unwrap();
    for _ in 0..2 {
        ledger.release(&reservation).await.unwrap();
        assert_eq!(used_and_reserved(&ledger, NOON).await, (0, 0), "once");
    }
    assert_eq!(ledger.history().await.unwrap(), []);
}

/// Calls under way give back what they do not need: it is a matter of seconds, not of tomorrow.
async fn a_refusal_says_when_it_is_worth_another_try(kind: Kind) {
    let (store, _fresh) = store(kind).await;
    let ledger = Ledger::new(store, Micros::new(1_000));
    let first = reserve(&ledger, 900, NOON).await.unwrap();
    let wait = async |wanted| reserve(&ledger, wanted, NOON).await.unwrap_err().retry_after(at(NOON));
    assert_eq!(wait(500).await, Duration::from_secs(5), "only set aside");
    ledger.settle(&first, &paid(900), at(NOON)).await.unwrap();
    assert_eq!(wait(500).await, Duration::from_hours(12), "spent");
}

/// Each read the whole policy and wrote the whole policy: one of two changes was lost.
async fn two_that_change_the_policy_at_the_same_moment_both_do(kind: Kind) {
    let (store, fresh) = store(kind).await;
    // A second pool, as a second replica has.
    let other = Store::connect(&fresh.url, PoolLimits::default()).await.unwrap();
    let initial = ProviderPolicy { max_concurrency: 4, min_concurrency: 1, criticality: Criticality::Normal };
    let policies = async |store| Policies::new(store, Gate::new(4), initial).await.unwrap();
    let (one, another) = (policies(store).await, policies(other).await);
    for (max_concurrency, criticality) in
        (1..=12).zip([Criticality::Low, Criticality::High].into_iter().cycle())
    {
        let number = PolicyChange { max_concurrency: Some(max_concurrency), criticality: None };
        let word = PolicyChange { max_concurrency: None, criticality: Some(criticality) };
        let (first, second) = tokio::join!(one.change(number), another.change(word));
        assert!(first.is_ok() && second.is_ok());
        for policies in [&one, &another] {
            policies.refresh().await.unwrap();
            let policy = policies.get();
            assert_eq!((policy.max_concurrency, policy.criticality), (max_concurrency, criticality));
        }
    }
}

on_both_databases! {
    a_call_is_charged_what_it_cost_and_the_rest_comes_back,
    the_limit_blocks_what_would_pass_it,
    concurrency_cannot_pass_the_limit,
    a_new_utc_day_begins_with_nothing_used,
    a_dead_holder_s_reservation_is_charged_once,
    two_that_reclaim_at_the_same_moment_charge_each_reservation_once,
    calls_are_forgotten_after_ninety_days,
    a_sweep_leaves_no_expired_answer_and_ten_thousand_others,
    outcomes_are_summed_by_provider_and_task,
    a_workflow_is_booked_once,
    last_month_s_costs_are_not_this_month_s,
    costs_that_add_up_to_more_than_a_number_can_hold_are_shown_as_the_most,
    what_was_set_aside_for_nothing_comes_back,
    a_refusal_says_when_it_is_worth_another_try,
    two_that_change_the_policy_at_the_same_moment_both_do,
}
