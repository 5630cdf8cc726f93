//! The lease of a singleton.

use std::time::{Duration, Instant};

use phase6_jobs::Lease;
use phase6_store::{on_both_databases, testing::Kind};

use crate::{Database, LONG, connect};

/// Longest wait for a condition.
const LIMIT: Duration = Duration::from_secs(20);

on_both_databases! {
    a_lease_has_one_holder_until_it_is_released,
    a_lease_expires_unless_it_is_renewed,
    each_holder_has_a_higher_epoch,
    a_guard_keeps_the_lease_until_the_end_of_the_transaction,
}

async fn a_lease_has_one_holder_until_it_is_released(kind: Kind) {
    let database = Database::create(kind).await;
    let (first, second) = (database.lease("first", LONG), database.lease("second", LONG));
    let epoch = first.try_acquire().await.unwrap().expect("no one holds it");
    assert_eq!(second.try_acquire().await.unwrap(), None);
    assert!(first.renew(epoch).await.unwrap());
    first.release(epoch).await.unwrap();
    assert!(second.try_acquire().await.unwrap().is_some());
    assert!(!first.renew(epoch).await.unwrap(), "the term of the first holder has ended");
}

async fn a_lease_expires_unless_it_is_renewed(kind: Kind) {
    let database = Database::create(kind).await;
    let lifetime = Duration::from_millis(600);
    let (first, second) = (database.lease("first", lifetime), database.lease("second", lifetime));
    let mut epoch = first.try_acquire().await.unwrap().unwrap();
    let mut refused = 0;
    while refused < 4 {
        let renewing = Instant::now();
        assert!(first.renew(epoch).await.unwrap(), "no other term has begun");
        tokio::time::sleep(lifetime / 3).await;
        let attempt = second.try_acquire().await.unwrap();
        if renewing.elapsed() < lifetime {
            assert_eq!(attempt, None);
            refused += 1;
        } else if let Some(next) = attempt {
            // The machine was busy for longer than the lease.
            second.release(next).await.unwrap();
            epoch = first.try_acquire().await.unwrap().unwrap();
        }
    }
    loop {
        if let Some(next) = second.try_acquire().await.unwrap() {
            assert_eq!(next, epoch + 1);
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn each_holder_has_a_higher_epoch(kind: Kind) {
    let database = Database::create(kind).await;
    for expected in 1..=5 {
        let lease = database.lease(&format!("holder {expected}"), LONG);
        assert_eq!(lease.try_acquire().await.unwrap(), Some(expected));
        lease.release(expected).await.unwrap();
    }
}

async fn a_guard_keeps_the_lease_until_the_end_of_the_transaction(kind: Kind) {
    let database = Database::create(kind).await;
    let lifetime = Duration::from_millis(100);
    let first = database.lease("first", lifetime);
    let epoch = first.try_acquire().await.unwrap().unwrap();
    let second = Lease::new(connect(&database.database).await, "test", "second", lifetime);
    let mut tx = database.store.begin().await.unwrap();
    assert!(first.guard(epoch, &mut tx).await.unwrap());
    let taken = tokio::spawn(async move {
        loop {
            if let Ok(Some(epoch)) = second.try_acquire().await {
                return epoch;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    tokio::time::sleep(lifetime * 3).await;
    assert!(!taken.is_finished(), "the transaction of the first holder is still open");
    tx.commit().await.unwrap();
    let next = tokio::time::timeout(LIMIT, taken).await.unwrap().unwrap();
    assert_eq!(next, epoch + 1);
    let mut tx = database.store.begin().await.unwrap();
    assert!(!first.guard(epoch, &mut tx).await.unwrap());
}
