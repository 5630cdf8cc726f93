//! How many calls may run at a time, first come, first served.
//!
//! The number may change at any moment: a raise lets those who wait in at once, a cut lets nobody
//! new in until enough have left. The queue is bounded, and waiting ends at a deadline. A place is
//! given back when its guard is dropped.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Most that may wait.
const LONGEST_QUEUE: usize = 64;

/// The gate. Clones are the same one.
#[derive(Clone)]
pub struct Gate {
    state: Arc<Mutex<State>>,
}

struct State {
    limit: usize,
    running: usize,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

/// A place inside; given back when dropped.
pub struct Place {
    state: Option<Arc<Mutex<State>>>,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// Too many wait already.
    #[error("{LONGEST_QUEUE} calls are waiting already")]
    QueueFull,
    /// None became free in time.
    #[error("no place became free in time")]
    TooLate,
}

impl Gate {
    /// A gate for `limit` at a time.
    pub fn new(limit: usize) -> Self {
        let state = State { limit: limit.max(1), running: 0, waiting: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Changes how many may be inside.
    pub fn set_limit(&self, limit: usize) {
        let mut state = self.state.lock();
        state.limit = limit.max(1);
        self.let_in(&mut state);
    }

    /// How many are inside, and how many wait.
    pub fn load(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.running, state.waiting.iter().filter(|waiting| !waiting.is_closed()).count())
    }

    /// A place, at once or after those who came before.
    ///
    /// # Errors
    ///
    /// None is free, and the queue is full or the deadline passes.
    pub async fn enter(&self, deadline: Duration) -> Result<Place, NoPlace> {
        let told = {
            let mut state = self.state.lock();
            state.waiting.retain(|waiting| !waiting.is_closed());
            if state.running < state.limit && state.waiting.is_empty() {
                state.running += 1;
                return Ok(self.place());
            }
            if state.waiting.len() >= LONGEST_QUEUE {
                return Err(NoPlace::QueueFull);
            }
            let (tell, told) = oneshot::channel();
            state.waiting.push_back(tell);
            told
        };
        match tokio::time::timeout(deadline, told).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(NoPlace::TooLate),
        }
    }

    fn place(&self) -> Place {
        Place { state: Some(Arc::clone(&self.state)) }
    }

    fn let_in(&self, state: &mut State) {
        while state.running < state.limit {
            let Some(next) = state.waiting.pop_front() else { return };
            state.running += 1;
            if let Err(mut place) = next.send(self.place()) {
                // Who waited has given up; the place must not give itself back under our lock.
                place.state = None;
                state.running -= 1;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            let gate = Gate { state };
            let mut state = gate.state.lock();
            state.running -= 1;
            gate.let_in(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    async fn waiters(gate: &Gate, count: usize) -> Vec<tokio::task::JoinHandle<Result<usize, NoPlace>>> {
        let mut tasks = Vec::new();
        for i in 0..count {
            let gate_of_task = gate.clone();
            tasks.push(tokio::spawn(async move { gate_of_task.enter(SOON).await.map(|_place| i) }));
            while gate.load().1 <= i {
                tokio::task::yield_now().await;
            }
        }
        tasks
    }

    /// In the original a queued request was served only when another one of its client arrived.
    #[tokio::test]
    async fn queued_requests_are_woken_when_a_place_becomes_free() {
        let gate = Gate::new(1);
        let place = gate.enter(SOON).await.unwrap();
        let mut tasks = waiters(&gate, 1).await;
        drop(place);
        assert_eq!(tasks.pop().unwrap().await.unwrap(), Ok(0));
    }

    #[tokio::test]
    async fn arrivals_do_not_overtake_the_queue() {
        let gate = Gate::new(1);
        let place = gate.enter(SOON).await.unwrap();
        let tasks = waiters(&gate, 5).await;
        drop(place);
        let late = gate.enter(SOON).await.unwrap();
        for (i, task) in tasks.into_iter().enumerate() {
            assert!(task.is_finished(), "{i} was before the late one");
        }
        drop(late);
    }

    /// In the original one waiter's time-out emptied the queue without answering the others.
    #[tokio::test]
    async fn a_timeout_of_one_leaves_the_queue_of_others() {
        let gate = Gate::new(1);
        let place = gate.enter(SOON).await.unwrap();
        let impatient = gate.enter(Duration::from_millis(1)).await;
        assert_eq!(impatient.err(), Some(NoPlace::TooLate));
        let tasks = waiters(&gate, 2).await;
        drop(place);
        for task in tasks {
            assert!(task.await.unwrap().is_ok());
        }
        assert_eq!(gate.load(), (0, 0));
    }

    #[tokio::test]
    async fn a_timeout_in_the_middle_of_the_queue_leaves_both_neighbours_their_place() {
        let gate = Gate::new(1);
        let place = gate.enter(SOON).await.unwrap();
        let mut first = Box::pin(gate.enter(SOON));
        let mut middle = Box::pin(gate.enter(Duration::from_millis(1)));
        let mut last = Box::pin(gate.enter(SOON));
        for queued in [&mut first, &mut middle, &mut last] {
            assert!(futures_util::poll!(queued).is_pending());
        }
        assert_eq!(gate.load(), (1, 3));
        assert_eq!(middle.await.err(), Some(NoPlace::TooLate));
        assert_eq!(gate.load(), (1, 2));
        drop(place);
        drop(first.await.expect("the first gets its place"));
        drop(last.await.expect("and the last after it"));
        assert_eq!(gate.load(), (0, 0));
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let gate = Gate::new(1);
        let _place = gate.enter(SOON).await.unwrap();
        let tasks = waiters(&gate, LONGEST_QUEUE).await;
        assert_eq!(gate.enter(SOON).await.err(), Some(NoPlace::QueueFull));
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn a_raise_lets_in_at_once_and_a_cut_waits() {
        let gate = Gate::new(1);
        let first = gate.enter(SOON).await.unwrap();
        let mut tasks = waiters(&gate, 1).await;
        gate.set_limit(2);
        assert!(tasks.pop().unwrap().await.unwrap().is_ok());
        let second = gate.enter(SOON).await.unwrap();
        gate.set_limit(1);
        drop(second);
        assert_eq!(
            gate.enter(Duration::from_millis(1)).await.err(),
            Some(NoPlace::TooLate),
            "one is still inside"
        );
        drop(first);
        assert!(gate.enter(SOON).await.is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn never_more_inside_than_the_limit_and_no_place_is_lost() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let gate = Gate::new(3);
        let inside: Arc<AtomicUsize> = Arc::default();
        let tasks: Vec<_> = (0..60)
            .map(|i| {
                let (gate, inside) = (gate.clone(), Arc::clone(&inside));
                tokio::spawn(async move {
                    let patience = Duration::from_micros(if i % 7 == 0 { 50 } else { 5_000_000 });
                    if let Ok(_place) = gate.enter(patience).await {
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(gate.load(), (0, 0));
    }
}
