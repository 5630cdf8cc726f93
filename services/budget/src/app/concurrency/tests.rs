//! Tests of the concurrency limit.

use tokio::task::JoinHandle;

use super::*;

const SOON: Duration = Duration::from_secs(5);
const IDLE: Load = Load { running: 0, waiting: 0 };

/// Starts tasks that wait for a permit, in their order.
async fn waiters(limit: &ConcurrencyLimit, count: usize) -> Vec<JoinHandle<Result<usize, AcquireError>>> {
    let mut tasks = Vec::new();
    for i in 0..count {
        let limit_of_task = limit.clone();
        tasks.push(tokio::spawn(async move { limit_of_task.acquire(SOON).await.map(|_permit| i) }));
        while limit.load().waiting <= i {
            tokio::task::yield_now().await;
        }
    }
    tasks
}

/// Regression: the original system served a queued request only when its client sent another one.
#[tokio::test]
async fn a_returned_permit_wakes_the_next_call() {
    let limit = ConcurrencyLimit::new(1);
    let permit = limit.acquire(SOON).await.unwrap();
    let mut tasks = waiters(&limit, 1).await;
    drop(permit);
    assert_eq!(tasks.pop().unwrap().await.unwrap(), Ok(0));
}

#[tokio::test]
async fn new_calls_do_not_overtake_the_queue() {
    let limit = ConcurrencyLimit::new(1);
    let permit = limit.acquire(SOON).await.unwrap();
    let tasks = waiters(&limit, 5).await;
    drop(permit);
    let late = limit.acquire(SOON).await.unwrap();
    for (i, task) in tasks.into_iter().enumerate() {
        assert!(task.is_finished(), "{i} came before the late one");
    }
    drop(late);
}

/// Regression: in the original system, the time-out of one call emptied the queue without answering
/// the others.
#[tokio::test]
async fn a_timeout_leaves_the_other_waiting_calls_in_the_queue() {
    let limit = ConcurrencyLimit::new(1);
    let permit = limit.acquire(SOON).await.unwrap();
    let impatient = limit.acquire(Duration::from_millis(1)).await;
    assert_eq!(impatient.err(), Some(AcquireError::TimedOut));
    let tasks = waiters(&limit, 2).await;
    drop(permit);
    for task in tasks {
        assert!(task.await.unwrap().is_ok());
    }
    assert_eq!(limit.load(), IDLE);
}

#[tokio::test]
async fn a_timeout_in_the_middle_of_the_queue_keeps_the_calls_around_it() {
    let limit = ConcurrencyLimit::new(1);
    let permit = limit.acquire(SOON).await.unwrap();
    let mut first = Box::pin(limit.acquire(SOON));
    let mut middle = Box::pin(limit.acquire(Duration::from_millis(1)));
    let mut last = Box::pin(limit.acquire(SOON));
    for queued in [&mut first, &mut middle, &mut last] {
        assert!(futures_util::poll!(queued).is_pending());
    }
    assert_eq!(limit.load(), Load { running: 1, waiting: 3 });
    assert_eq!(middle.await.err(), Some(AcquireError::TimedOut));
    assert_eq!(limit.load(), Load { running: 1, waiting: 2 });
    drop(permit);
    drop(first.await.expect("the first call is admitted"));
    drop(last.await.expect("the last call is admitted after it"));
    assert_eq!(limit.load(), IDLE);
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let limit = ConcurrencyLimit::new(1);
    let _permit = limit.acquire(SOON).await.unwrap();
    let tasks = waiters(&limit, MAX_WAITING).await;
    assert_eq!(limit.acquire(SOON).await.err(), Some(AcquireError::QueueFull));
    tasks.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn a_raise_takes_effect_at_once_and_a_cut_waits() {
    let limit = ConcurrencyLimit::new(1);
    let first = limit.acquire(SOON).await.unwrap();
    let mut tasks = waiters(&limit, 1).await;
    limit.set_limit(2);
    assert!(tasks.pop().unwrap().await.unwrap().is_ok());
    let second = limit.acquire(SOON).await.unwrap();
    limit.set_limit(1);
    drop(second);
    assert_eq!(
        limit.acquire(Duration::from_millis(1)).await.err(),
        Some(AcquireError::TimedOut),
        "one call is still running"
    );
    drop(first);
    assert!(limit.acquire(SOON).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_exceeds_the_limit_and_loses_no_permit() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let limit = ConcurrencyLimit::new(3);
    let running: Arc<AtomicUsize> = Arc::default();
    let tasks: Vec<_> = (0..60)
        .map(|i| {
            let (limit, running) = (limit.clone(), Arc::clone(&running));
            tokio::spawn(async move {
                let time_limit = Duration::from_micros(if i % 7 == 0 { 50 } else { 5_000_000 });
                if let Ok(_permit) = limit.acquire(time_limit).await {
                    assert!(running.fetch_add(1, Ordering::SeqCst) < 3);
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(limit.load(), IDLE);
}
