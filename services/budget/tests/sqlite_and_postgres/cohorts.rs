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
use phase6_chassis::{Clock, identity::Name};
use phase6_store::{Store, on_both_databases, sql, testing::Kind};

use crate::{NOON, acme, at, store};

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

/// Records a workflow in a separate transaction.
async fn record(store: &Store, cohorts: &CohortStore, tenant: &Name, workflow: &Workflow) -> RecordOutcome {
    let mut tx = store.begin().await.unwrap();
    let outcome = cohorts.record(&mut tx, tenant, workflow).await.unwrap();
    let seen = cohorts.metrics_in(&mut tx, tenant, &workflow.cohort).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(seen, cohorts.metrics(tenant, &workflow.cohort).await.unwrap());
    outcome
}

async fn a_workflow_is_charged_once(kind: Kind) {
    let (store, _database) = store(kind).await;
    let cohorts = CohortStore::new(store.clone(), Clock::default());
    for (cost, outcome) in [
        (500, RecordOutcome::Recorded),
        (500, RecordOutcome::AlreadyRecorded),
        (501, RecordOutcome::Conflict),
    ] {
        let workflow = workflow(ProviderId::OpenAi, cost);
        assert_eq!(record(&store, &cohorts, &acme(), &workflow).await, outcome);
    }
    let metrics = cohorts.metrics(&acme(), &cohort("c")).await.unwrap();
    for spent in [metrics.total_spent, metrics.spent_this_month, metrics.spent_today] {
        assert_eq!(spent, MicroDollars::new(500));
    }
    assert_eq!((metrics.workflows_executed, metrics.capabilities_activated), (1, 2.0));
    assert_eq!(metrics.provider_distribution["openai"].workflows, 1);
    assert_eq!(cohorts.metrics(&acme(), &cohort("nobody")).await.unwrap().workflows_executed, 0);
    assert_eq!(cohorts.export(&acme()).await.unwrap(), [metrics]);
}

async fn cohorts_of_two_tenants_may_have_one_name(kind: Kind) {
    let (store, _database) = store(kind).await;
    let cohorts = CohortStore::new(store.clone(), Clock::default());
    let other: Name = "other".parse().unwrap();
    for (tenant, cost) in [(&acme(), 500), (&other, 700)] {
        let recorded = record(&store, &cohorts, tenant, &workflow(ProviderId::OpenAi, cost)).await;
        assert_eq!(recorded, RecordOutcome::Recorded);
    }
    let (tenant, cohort) = (acme(), cohort("c"));
    // Read in one batch.
    let (first, second) = tokio::join!(cohorts.metrics(&tenant, &cohort), cohorts.metrics(&other, &cohort));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.total_spent.get(), second.total_spent.get()), (500, 700));
    assert_eq!(cohorts.export(&other).await.unwrap(), [second]);
}

async fn costs_of_last_month_do_not_count_for_this_month(kind: Kind) {
    let (store, _database) = store(kind).await;
    let clock = Clock::manual(at(NOON));
    let cohorts = CohortStore::new(store.clone(), clock.clone());
    record(&store, &cohorts, &acme(), &workflow(ProviderId::Ollama, 500)).await;
    clock.advance(Duration::from_hours(40 * 24));
    let metrics = cohorts.metrics(&acme(), &cohort("c")).await.unwrap();
    assert_eq!((metrics.total_spent.get(), metrics.spent_this_month.get()), (500, 0));
}

/// Regression: the sum overflowed an integer, and the cohort could not be read any more.
async fn a_sum_that_overflows_is_shown_as_the_largest_amount(kind: Kind) {
    let (store, _database) = store(kind).await;
    // Larger costs than are accepted now; earlier versions recorded them.
    sql(
        "INSERT INTO budget_workflows (tenant, cohort, workflow, provider, cost_micros, gain, at_ms, day)
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10000)
         SELECT 'acme', 'c', 'workflow ' || n, 'openai', 1000000000000000, 1.0, 1, '2026-11-24' FROM numbers",
    )
    .run(&store)
    .await
    .unwrap();
    let cohorts = CohortStore::new(store.clone(), Clock::default());
    let metrics = cohorts.metrics(&acme(), &cohort("c")).await.unwrap();
    assert_eq!((metrics.total_spent, metrics.workflows_executed), (MicroDollars::MAX, 10_000));
    assert_eq!(cohorts.export(&acme()).await.unwrap(), [metrics]);
}

on_both_databases! {
    a_workflow_is_charged_once,
    cohorts_of_two_tenants_may_have_one_name,
    costs_of_last_month_do_not_count_for_this_month,
    a_sum_that_overflows_is_shown_as_the_largest_amount,
}
