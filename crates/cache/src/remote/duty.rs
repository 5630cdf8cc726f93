//! One replica makes an answer while the others wait for it: [`crate::duty`] over Redis.
//!
//! The word that an answer has landed is in the log. Who waits for it is also woken when this replica loses
//! touch, and then makes the answer itself.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;
use phase6_redis::Script;
use tokio::sync::oneshot;

use super::{LOG_LENGTH, Shared, stored::Said};
use crate::duty::{LASTS, PROLONGED};

/// Between attempts to say that it has landed.
const AGAIN: Duration = Duration::from_millis(100);

static PROLONG: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("prolong.lua")));
static LANDED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("landed.lua")));

/// This replica makes an answer. Its duty ends when this is dropped.
pub(super) struct OnDuty {
    _end: oneshot::Sender<()>,
}

impl OnDuty {
    /// Takes over what Redis has given to this replica, or may have: nobody else's duty is touched.
    pub(super) fn taken(shared: &Arc<Shared>, name: String) -> Self {
        let (end, mut ended) = oneshot::channel::<()>();
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            while tokio::time::timeout(PROLONGED, &mut ended).await.is_err() {
                shared.prolong_duty(&name).await;
            }
            // Who waits for the word would wait until the duty ends by itself.
            for _ in 0..LASTS.as_millis() / AGAIN.as_millis() {
                if shared.say_landed(&name).await {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
        Self { _end: end }
    }
}

impl Shared {
    async fn prolong_duty(&self, name: &str) {
        let mut call = PROLONG.prepare_invoke();
        call.key(self.duty_key(name)).arg(&self.origin).arg(LASTS.as_millis() as u64);
        if self.redis.script::<u64>(&call).await.is_err() {
            self.failed();
        }
    }

    /// Whether it was said, or need not be.
    async fn say_landed(&self, name: &str) -> bool {
        let mut call = LANDED.prepare_invoke();
        call.key(self.duty_key(name)).key(self.waiting_key(name)).key(self.log_key());
        call.arg(&self.origin).arg(LOG_LENGTH).arg(Said::Landed(name.to_owned()).to_string());
        let said = self.redis.script::<u64>(&call).await.is_ok();
        if !said {
            self.failed();
        }
        said
    }
}

/// Those who wait for an answer that another replica makes; one for each answer.
#[derive(Default)]
pub(super) struct Waiting(Mutex<HashMap<String, oneshot::Sender<()>>>);

impl Waiting {
    /// Woken when it has landed; to be called before another replica's duty is seen.
    pub(super) fn for_landing(&self, name: &str) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        self.0.lock().insert(name.to_owned(), wake);
        woken
    }

    /// Wakes who waits for it, if anybody does.
    pub(super) fn landed(&self, name: &str) {
        self.0.lock().remove(name);
    }

    /// Wakes everybody.
    pub(super) fn give_up(&self) {
        self.0.lock().clear();
    }
}
