//! One replica makes an answer while the others wait for it.
//!
//! ```text
//!   first to ask  -> duty, prolonged while it lasts -> answer stored -> "landed" in the log
//!   others        -> wait for that word in the log, without asking again
//! ```
//!
//! A duty that is not prolonged, because its replica died, ends by itself. Who waits is also woken when this
//! replica loses touch, and then makes the answer itself.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;
use phase6_redis::{Script, cmd};
use tokio::sync::oneshot;

use super::{LOG_LENGTH, Shared, stored::Said};

/// How long a duty lasts if nobody prolongs it; nobody waits longer.
pub(super) const LASTS: Duration = Duration::from_secs(3);
const PROLONGED: Duration = Duration::from_secs(1);

static LANDED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("landed.lua")));

/// The duty to make an answer. It ends when this is dropped.
pub(super) struct Duty {
    _end: oneshot::Sender<()>,
}

impl Duty {
    /// Takes over what Redis has given to this replica.
    pub(super) fn taken(shared: &Arc<Shared>, name: String) -> Self {
        let (end, mut ended) = oneshot::channel::<()>();
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            while tokio::time::timeout(PROLONGED, &mut ended).await.is_err() {
                let mut prolong = cmd("PEXPIRE");
                prolong.arg(shared.duty_key(&name)).arg(LASTS.as_millis() as u64);
                if shared.redis.command::<i64>(&prolong).await.is_err() {
                    shared.failed();
                }
            }
            let mut call = LANDED.prepare_invoke();
            call.key(shared.duty_key(&name)).key(shared.waiting_key(&name)).key(shared.log_key());
            call.arg(&shared.origin).arg(LOG_LENGTH).arg(Said::Landed(name).to_string());
            if shared.redis.script::<u64>(&call).await.is_err() {
                shared.failed();
            }
        });
        Self { _end: end }
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
