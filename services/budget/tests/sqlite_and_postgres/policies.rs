//! The provider policy in the database.

use phase6_budget::{
    app::{ConcurrencyLimit, CurrentPolicy},
    model::{Criticality, PolicyChange, ProviderPolicy},
    store::{ChangePolicyError, PolicyStore},
};
use phase6_store::{ExpectedVersion, VersionMismatch, on_both_databases, sql, testing::Kind};

use crate::{another_replica, store};

const INITIAL: ProviderPolicy = ProviderPolicy { max_concurrency: 4, criticality: Criticality::Normal };

const ANY: ExpectedVersion = ExpectedVersion::Any;

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
            tokio::join!(one.change(concurrency_change, &ANY), another.change(criticality_change, &ANY));
        assert!(first.is_ok() && second.is_ok());
        for replica in [&one, &another] {
            replica.refresh().await.unwrap();
            assert_eq!(replica.get().value, ProviderPolicy { max_concurrency, criticality });
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

/// Both replicas change the version that they have read, again and again: one of them succeeds each time.
async fn one_of_two_changes_of_the_same_version_is_refused(kind: Kind) {
    let (store, database) = store(kind).await;
    let other = another_replica(&database).await;
    let (one, another) = (PolicyStore::new(store), PolicyStore::new(other));
    for version in 0..12 {
        let expected = ExpectedVersion::OneOf(vec![version]);
        let change = |calls| PolicyChange::new(Some(calls), None).unwrap();
        let results = tokio::join!(
            one.change(change(2), INITIAL, &expected),
            another.change(change(3), INITIAL, &expected)
        );
        let (changed, refused) = match results {
            (Ok(changed), Err(refused)) | (Err(refused), Ok(changed)) => (changed, refused),
            other => panic!("version {version}: {other:?}"),
        };
        assert_eq!(changed.version, version + 1);
        let current = version + 1;
        assert!(
            matches!(refused, ChangePolicyError::Version(VersionMismatch { current: found }) if found == current),
            "{refused:?}"
        );
        assert_eq!(one.load().await.unwrap(), Some(changed));
    }
}

on_both_databases! {
    one_of_two_changes_of_the_same_version_is_refused,
    concurrent_changes_by_two_replicas_are_both_applied,
    a_value_of_a_newer_version_is_ignored,
}
