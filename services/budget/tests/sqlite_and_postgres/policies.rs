//! The provider policy in the database.

use phase6_budget::{
    app::{ConcurrencyLimit, CurrentPolicy},
    model::{Criticality, PolicyChange, ProviderPolicy},
    store::PolicyStore,
};
use phase6_store::{on_both_databases, sql, testing::Kind};

use crate::{another_replica, store};

const INITIAL: ProviderPolicy = ProviderPolicy { max_concurrency: 4, criticality: Criticality::Normal };

/// Regression: two replicas read and wrote the whole policy at the same time, and one change was lost.
async fn concurrent_changes_by_two_replicas_are_both_applied(kind: Kind) {
    let (store, database) = store(kind).await;
    let other = another_replica(&database).await;
    let load = async |store| {
        CurrentPolicy::load(PolicyStore::new(store), ConcurrencyLimit::new(4), INITIAL).await.unwrap()
    };
    let (one, another) = (load(store).await, load(other).await);
    for (max_concurrency, criticality) in
        (1..=12).zip([Criticality::Low, Criticality::High].into_iter().cycle())
    {
        let concurrency_change = PolicyChange::new(Some(max_concurrency), None).unwrap();
        let criticality_change = PolicyChange::new(None, Some(criticality)).unwrap();
        let (first, second) =
            tokio::join!(one.change(concurrency_change), another.change(criticality_change));
        assert!(first.is_ok() && second.is_ok());
        for replica in [&one, &another] {
            replica.refresh().await.unwrap();
            assert_eq!(replica.get(), ProviderPolicy { max_concurrency, criticality });
        }
    }
}

async fn a_value_of_a_newer_version_is_ignored(kind: Kind) {
    let (store, _database) = store(kind).await;
    sql("INSERT INTO budget_settings (name, value) VALUES ('provider-policy', '{\"version\": 2}')")
        .run(&store)
        .await
        .unwrap();
    assert_eq!(PolicyStore::new(store).load().await.unwrap(), None);
}

on_both_databases! {
    concurrent_changes_by_two_replicas_are_both_applied,
    a_value_of_a_newer_version_is_ignored,
}
