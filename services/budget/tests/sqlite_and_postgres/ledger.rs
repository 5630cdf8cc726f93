//! The ledger and the reports on recorded calls.

use std::time::Duration;

use phase6_budget::{
    model::{
        MicroDollars, ProviderId, Task, Usage,
        spending::{
            BudgetExceeded, CallOutcome, CallPosition, DayAmounts, Reservation, Settlement,
            time_until_next_utc_day,
        },
    },
    store::{CallHistory, Ledger, ReserveError},
};
use phase6_chassis::identity::Name;
use phase6_store::{on_both_databases, testing::Kind};

use crate::{NOON, acme, another_replica, at, store};

const LIMIT: MicroDollars = MicroDollars::new(1_000);

fn success(cost: i64) -> Settlement {
    Settlement {
        cost: MicroDollars::new(cost),
        estimated: false,
        usage: Some(Usage { input: 3, output: 4 }),
        model: "m".into(),
        task: Task::General,
        outcome: CallOutcome::Success,
        latency: Duration::from_millis(250),
    }
}

fn amounts(used: i64, reserved: i64) -> DayAmounts {
    DayAmounts { used: MicroDollars::new(used), reserved: MicroDollars::new(reserved) }
}

async fn reserve(ledger: &Ledger, amount: i64, now: &str) -> Result<Reservation, ReserveError> {
    ledger.reserve(&acme(), ProviderId::OpenAi, MicroDollars::new(amount), at(now)).await
}

async fn refusal(ledger: &Ledger, amount: i64) -> BudgetExceeded {
    match reserve(ledger, amount, NOON).await {
        Err(ReserveError::BudgetExceeded(exceeded)) => exceeded,
        other => panic!("{other:?}"),
    }
}

async fn amounts_of_day(ledger: &Ledger, now: &str) -> DayAmounts {
    ledger.spending(&acme(), at(now)).await.unwrap().amounts
}

async fn a_settlement_charges_the_cost_and_releases_the_rest(kind: Kind) {
    let (store, _database) = store(kind).await;
    let ledger = Ledger::new(store.clone(), LIMIT);
    let reservation = reserve(&ledger, 600, NOON).await.unwrap();
    assert_eq!(amounts_of_day(&ledger, NOON).await, amounts(0, 600));
    ledger.settle(&reservation, &success(150), at(NOON)).await.unwrap();
    let day = ledger.spending(&acme(), at(NOON)).await.unwrap();
    assert_eq!(day.amounts, amounts(150, 0));
    assert_eq!((day.remaining().get(), day.calls["openai"]), (850, 1));
    assert!(!day.is_warning() && !day.is_blocked());
    let history = CallHistory::new(store).recent(&acme(), None, 200).await.unwrap();
    assert_eq!(
        (history[0].cost.get(), history[0].outcome.as_str(), history[0].latency_ms),
        (150, "success", 250)
    );
}

/// Regression: the original system never charged anything, and its limit never blocked.
async fn the_limit_refuses_what_would_exceed_it(kind: Kind) {
    let (store, _database) = store(kind).await;
    let ledger = Ledger::new(store, LIMIT);
    let first = reserve(&ledger, 700, NOON).await.unwrap();
    let exceeded = refusal(&ledger, 301).await;
    assert_eq!((exceeded.used.get(), exceeded.reserved.get(), exceeded.requested.get()), (0, 700, 301));
    let second = reserve(&ledger, 300, NOON).await.unwrap();
    ledger.settle(&first, &success(700), at(NOON)).await.unwrap();
    let day = ledger.spending(&acme(), at(NOON)).await.unwrap();
    assert!(
        !day.is_blocked() && !day.is_warning() && (day.percent() - 70.0).abs() < 1e-9,
        "reserved amounts are not spent: {day:?}"
    );
    ledger.settle(&second, &success(300), at(NOON)).await.unwrap();
    let day = ledger.spending(&acme(), at(NOON)).await.unwrap();
    assert!(day.is_blocked() && day.percent() >= 100.0, "{day:?}");
    reserve(&ledger, 0, NOON).await.expect("an amount of zero is never refused");
}

async fn tenants_share_the_limit_and_see_only_their_own_amounts(kind: Kind) {
    let (store, _database) = store(kind).await;
    let ledger = Ledger::new(store.clone(), LIMIT);
    let other: Name = "other".parse().unwrap();
    let foreign = ledger.reserve(&other, ProviderId::OpenAi, MicroDollars::new(600), at(NOON)).await.unwrap();
    ledger.settle(&foreign, &success(600), at(NOON)).await.unwrap();
    let exceeded = refusal(&ledger, 401).await;
    assert_eq!((exceeded.used.get(), exceeded.reserved.get()), (0, 0));
    assert!(exceeded.to_string().ends_with("; other tenants use the rest"), "{exceeded}");
    assert!(exceeded.retry_after(at(NOON)) > Duration::from_hours(11), "until the next day");
    let own = reserve(&ledger, 400, NOON).await.unwrap();
    ledger.settle(&own, &success(150), at(NOON)).await.unwrap();
    let day = ledger.spending(&acme(), at(NOON)).await.unwrap();
    assert_eq!((day.amounts, day.calls["openai"]), (amounts(150, 0), 1));
    let history = CallHistory::new(store);
    assert_eq!(history.recent(&acme(), None, 200).await.unwrap().len(), 1);
    assert_eq!(history.quality(&acme()).await.unwrap()[0].calls, 1);
    assert_eq!(ledger.spending(&other, at(NOON)).await.unwrap().amounts, amounts(600, 0));
}

async fn expired_reservations_of_many_tenants_are_charged_to_each(kind: Kind) {
    let (store, database) = store(kind).await;
    let ledgers = [Ledger::new(store, LIMIT), Ledger::new(another_replica(&database).await, LIMIT)];
    let tenants: Vec<Name> = (0..5).map(|number| format!("tenant-{number}").parse().unwrap()).collect();
    for (index, tenant) in tenants.iter().chain(&tenants).enumerate() {
        let amount = MicroDollars::new(10 + index as i64 % 5);
        ledgers[index % 2].reserve(tenant, ProviderId::OpenAi, amount, at(NOON)).await.unwrap();
    }
    let late = at("2026-11-24T13:00:00Z");
    let (first, second) = tokio::join!(ledgers[0].reclaim(late), ledgers[1].reclaim(late));
    assert_eq!(first.unwrap() + second.unwrap(), 10);
    for (index, tenant) in tenants.iter().enumerate() {
        let amounts_of_tenant = ledgers[0].spending(tenant, at(NOON)).await.unwrap().amounts;
        assert_eq!(amounts_of_tenant, amounts(2 * (10 + index as i64), 0));
    }
}

async fn concurrent_replicas_cannot_exceed_the_limit(kind: Kind) {
    let (store, database) = store(kind).await;
    let other = another_replica(&database).await;
    let ledgers = [Ledger::new(store, LIMIT), Ledger::new(other, LIMIT)];
    let attempts: Vec<_> = (0..60)
        .map(|i| {
            let ledger = ledgers[i % 2].clone();
            tokio::spawn(async move {
                match reserve(&ledger, 70, NOON).await {
                    Ok(reservation) => {
                        ledger.settle(&reservation, &success(70), at(NOON)).await.unwrap();
                        true
                    }
                    Err(ReserveError::BudgetExceeded(_)) => false,
                    Err(ReserveError::Store(error)) => panic!("{error:?}"),
                }
            })
        })
        .collect();
    let mut granted = 0;
    for attempt in attempts {
        granted += u32::from(attempt.await.unwrap());
    }
    assert_eq!(granted, 14, "a thousand has room for fourteen times seventy");
    assert_eq!(amounts_of_day(&ledgers[0], NOON).await, amounts(980, 0));
}

async fn a_new_utc_day_begins_with_nothing_spent(kind: Kind) {
    let (store, _database) = store(kind).await;
    let ledger = Ledger::new(store, LIMIT);
    let late = reserve(&ledger, 1_000, "2026-11-24T23:59:59Z").await.unwrap();
    reserve(&ledger, 1_000, "2026-11-25T00:00:00Z").await.unwrap();
    ledger.settle(&late, &success(900), at("2026-11-25T00:00:05Z")).await.unwrap();
    assert_eq!(
        amounts_of_day(&ledger, "2026-11-24T23:59:59Z").await,
        amounts(900, 0),
        "charged to the day of the reservation"
    );
    assert_eq!(amounts_of_day(&ledger, "2026-11-25T01:00:00Z").await, amounts(0, 1_000));
    assert_eq!(time_until_next_utc_day(at("2026-11-24T23:59:50Z")), Duration::from_secs(10));
}

async fn an_expired_reservation_is_charged_once(kind: Kind) {
    let (store, _database) = store(kind).await;
    let ledger = Ledger::new(store, LIMIT);
    let reservation = reserve(&ledger, 400, NOON).await.unwrap();
    assert_eq!(ledger.reclaim(at("2026-11-24T12:05:00Z")).await.unwrap(), 0, "its holder may be alive");
    assert_eq!(ledger.reclaim(at("2026-11-24T12:11:00Z")).await.unwrap(), 1);
    assert_eq!(amounts_of_day(&ledger, NOON).await, amounts(400, 0));
    ledger.settle(&reservation, &success(100), at("2026-11-24T12:12:00Z")).await.unwrap();
    assert_eq!(amounts_of_day(&ledger, NOON).await, amounts(400, 0), "charged before the late settlement");
    assert_eq!(ledger.reclaim(at("2026-11-24T13:00:00Z")).await.unwrap(), 0);
}

async fn concurrent_reclaims_charge_each_reservation_once(kind: Kind) {
    let (store, database) = store(kind).await;
    let other = another_replica(&database).await;
    let ledgers = [Ledger::new(store.clone(), LIMIT), Ledger::new(other, LIMIT)];
    for _ in 0..20 {
        reserve(&ledgers[0], 30, NOON).await.unwrap();
    }
    let later = at("2026-11-24T12:11:00Z");
    let [one, another] =
        ledgers.clone().map(|ledger| tokio::spawn(async move { ledger.reclaim(later).await }));
    let charged = one.await.unwrap().unwrap() + another.await.unwrap().unwrap();
    assert_eq!(charged, 20);
    assert_eq!(amounts_of_day(&ledgers[0], NOON).await, amounts(600, 0));
    assert_eq!(CallHistory::new(store).recent(&acme(), None, 200).await.unwrap().len(), 20);
}

async fn calls_are_deleted_after_ninety_days(kind: Kind) {
    let (store, _database) = store(kind).await;
    let ledger = Ledger::new(store.clone(), LIMIT);
    let history = CallHistory::new(store);
    for time in ["2026-08-26T11:59:59Z", "2026-08-26T12:00:00Z"] {
        let reservation = reserve(&ledger, 10, time).await.unwrap();
        ledger.settle(&reservation, &success(10), at(time)).await.unwrap();
    }
    ledger.reclaim(at("2026-11-24T11:59:59Z")).await.unwrap();
    assert_eq!(
        history.recent(&acme(), None, 200).await.unwrap().len(),
        2,
        "calls of ninety days are recorded"
    );
    ledger.reclaim(at(NOON)).await.unwrap();
    let remaining: Vec<_> =
        history.recent(&acme(), None, 200).await.unwrap().iter().map(|call| call.at_ms).collect();
    assert_eq!(remaining, [at("2026-08-26T12:00:00Z").as_millisecond()]);
}

async fn quality_sums_outcomes_by_provider_and_task(kind: Kind) {
    let (store, _database) = store(kind).await;
    let ledger = Ledger::new(store.clone(), MicroDollars::new(10_000));
    for outcome in [CallOutcome::Success, CallOutcome::Success, CallOutcome::Failed] {
        let reservation = reserve(&ledger, 10, NOON).await.unwrap();
        let settlement = Settlement { outcome, ..success(6) };
        ledger.settle(&reservation, &settlement, at(NOON)).await.unwrap();
    }
    let quality = CallHistory::new(store).quality(&acme()).await.unwrap();
    assert_eq!(quality.len(), 1);
    assert_eq!(
        (quality[0].provider.as_str(), quality[0].task.as_str(), quality[0].calls),
        ("openai", "general", 3)
    );
    assert!((quality[0].success_rate - 2.0 / 3.0).abs() < 1e-9);
    assert!((quality[0].mean_latency_ms - 250.0).abs() < 1e-9);
    assert!((quality[0].mean_cost_dollars - 0.000_006).abs() < 1e-12);
}

async fn a_released_reservation_charges_nothing(kind: Kind) {
    let (store, _database) = store(kind).await;
    let ledger = Ledger::new(store.clone(), LIMIT);
    let reservation = reserve(&ledger, 600, NOON).await.unwrap();
    for _ in 0..2 {
        ledger.release(&reservation).await.unwrap();
        assert_eq!(amounts_of_day(&ledger, NOON).await, amounts(0, 0), "released once");
    }
    assert_eq!(CallHistory::new(store).recent(&acme(), None, 200).await.unwrap(), []);
}

/// Calls in flight release what they do not need within seconds; spent amounts remain until tomorrow.
async fn a_refusal_names_the_time_to_retry(kind: Kind) {
    let (store, _database) = store(kind).await;
    let ledger = Ledger::new(store, LIMIT);
    let first = reserve(&ledger, 900, NOON).await.unwrap();
    let wait = async |amount| refusal(&ledger, amount).await.retry_after(at(NOON));
    assert_eq!(wait(500).await, Duration::from_secs(5), "only reserved");
    ledger.settle(&first, &success(900), at(NOON)).await.unwrap();
    assert_eq!(wait(500).await, Duration::from_hours(12), "spent");
}

async fn the_history_is_read_in_pages(kind: Kind) {
    let (store, _database) = store(kind).await;
    let ledger = Ledger::new(store.clone(), LIMIT);
    // Several calls in one millisecond.
    for second in [1, 1, 1, 2, 2, 3] {
        let now = format!("2026-11-24T12:00:0{second}Z");
        let reservation = reserve(&ledger, 10, &now).await.unwrap();
        ledger.settle(&reservation, &success(10), at(&now)).await.unwrap();
    }
    let history = CallHistory::new(store);
    let whole = history.recent(&acme(), None, 200).await.unwrap();
    let (mut pages, mut after) = (vec![], None);
    loop {
        let page = history.recent(&acme(), after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(CallPosition { at_ms: last.at_ms, id: last.id.clone() });
        pages.extend(page);
    }
    assert_eq!((pages.len(), &pages), (6, &whole));
    assert!(whole.is_sorted_by(|a, b| (a.at_ms, &a.id) > (b.at_ms, &b.id)));
}

on_both_databases! {
    the_history_is_read_in_pages,
    a_settlement_charges_the_cost_and_releases_the_rest,
    the_limit_refuses_what_would_exceed_it,
    tenants_share_the_limit_and_see_only_their_own_amounts,
    expired_reservations_of_many_tenants_are_charged_to_each,
    concurrent_replicas_cannot_exceed_the_limit,
    a_new_utc_day_begins_with_nothing_spent,
    an_expired_reservation_is_charged_once,
    concurrent_reclaims_charge_each_reservation_once,
    calls_are_deleted_after_ninety_days,
    quality_sums_outcomes_by_provider_and_task,
    a_released_reservation_charges_nothing,
    a_refusal_names_the_time_to_retry,
}
