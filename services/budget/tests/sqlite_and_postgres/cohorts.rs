//! Records of cohorts.

use std::time::Duration;

use phase6_budget::{
    model::{
        MicroDollars, ProviderId,
        cohort::CohortId,
        workflow::{RecordOutcome, Workflow, WorkflowId},
    },
    store::CohortStore,
};
use phase6_chassis::Clock;
use phase6_store::{on_both_databases, sql, testing::Kind};

use crate::{NOON, at, store};

fn cohort(id: &str) -> CohortId {
    CohortId::new(id.into()).unwrap()
}

fn workflow(provider: ProviderId, cost: i64) -> Workflow {
    Workflow {
        cohort: cohort("c"),
        id: WorkflowId::new("w".into()).unwrap(),
        provider,
        cost: MicroDollars::new(cost),
        capability_gain: 2.0,
    }
}

async fn a_workflow_is_charged_once(kind: Kind) {
    let (store, _database) = store(kind).await;
    let cohorts = CohortStore::new(store, Clock::default());
    for (cost, outcome) in [
        (500, RecordOutcome::Recorded),
        (500, RecordOutcome::AlreadyRecorded),
        (501, RecordOutcome::Conflict),
    ] {
        assert_eq!(cohorts.record(&workflow(ProviderId::OpenAi, cost)).await.unwrap(), outcome);
    }
    let metrics = cohorts.metrics(&cohort("c")).await.unwrap();
    for spent in [metrics.total_spent, metrics.spent_this_month, metrics.spent_today] {
        assert_eq!(spent, MicroDollars::new(500));
    }
    assert_eq!((metrics.workflows_executed, metrics.capabilities_activated), (1, 2.0));
    assert_eq!(metrics.provider_distribution["openai"].workflows, 1);
    assert_eq!(cohorts.metrics(&cohort("nobody")).await.unwrap().workflows_executed, 0);
    assert_eq!(cohorts.export().await.unwrap(), [metrics]);
}

async fn costs_of_last_month_do_not_count_for_this_month(kind: Kind) {
    let (store, _database) = store(kind).await;
    let clock = Clock::manual(at(NOON));
    let cohorts = CohortStore::new(store, clock.clone());
    cohorts.record(&workflow(ProviderId::Ollama, 500)).await.unwrap();
    clock.advance(Duration::from_hours(40 * 24));
    let metrics = cohorts.metrics(&cohort("c")).await.unwrap();
    assert_eq!((metrics.total_spent.get(), metrics.spent_this_month.get()), (500, 0));
}

/// Regression: the sum overflowed an integer, and the cohort could not be read any more.
async fn a_sum_that_overflows_is_shown_as_the_largest_amount(kind: Kind) {
    let (store, _database) = store(kind).await;
    // Larger costs than are accepted now; earlier versions recorded them.
    sql("INSERT INTO budget_workflows (cohort, workflow, provider, cost_micros, gain, at_ms, day)
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10000)
         SELECT 'c', 'workflow ' || n, 'openai', 1000000000000000, 1.0, 1, '2026-11-24' FROM numbers")
    .run(&store)
    .await
    .unwrap();
    let cohorts = CohortStore::new(store, Clock::default());
    let metrics = cohorts.metrics(&cohort("c")).await.unwrap();
    assert_eq!((metrics.total_spent, metrics.workflows_executed), (MicroDollars::MAX, 10_000));
    assert_eq!(cohorts.export().await.unwrap(), [metrics]);
}

on_both_databases! {
    a_workflow_is_charged_once,
    costs_of_last_month_do_not_count_for_this_month,
    a_sum_that_overflows_is_shown_as_the_largest_amount,
}
