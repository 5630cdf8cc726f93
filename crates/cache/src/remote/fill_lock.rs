//! One replica makes an answer while the others wait for it: [`crate::duty`] over Redis.
//!
//! The word that an answer has landed, or is lost, is in the log. Who waits for it is also woken when this
//! replica loses touch, and then makes the answer itself.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;
use phase6_redis::Script;
use tokio::sync::oneshot;

use super::{LOG_LENGTH, Shared, stored::Said};
use crate::{
    duty::{LASTS, PROLONGED, Word},
    level::Making,
};

/// Between attempts to say the word.
const AGAIN: Duration = Duration::from_millis(100);

static PROLONG: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("prolong.lua")));
static LANDED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("landed.lua")));

/// This replica makes an answer. Its duty ends when this is dropped: the answer has landed, unless it was
/// said to be lost.
pub(super) struct OnDuty {
    end: oneshot::Sender<Word>,
}

impl Making for OnDuty {
    fn was_forgotten(self: Box<Self>) {
        let _ = self.end.send(Word::Lost);
    }
}

impl OnDuty {
    /// Takes over what Redis has given to this replica, or may have: nobody else's duty is touched.
    pub(super) fn taken(shared: &Arc<Shared>, name: String) -> Self {
        let (end, mut ended) = oneshot::channel();
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let word = loop {
                match tokio::time::timeout(PROLONGED, &mut ended).await {
                    Ok(word) => break word.unwrap_or(Word::Landed),
                    Err(_) => shared.prolong_duty(&name).await,
                }
            };
            // Who waits for the word would wait until the duty ends by itself.
            for _ in 0..LASTS.as_millis() / AGAIN.as_millis() {
                if shared.say(&name, word).await {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
        Self { end }
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
    async fn say(&self, name: &str, word: Word) -> bool {
        let mut call = LANDED.prepare_invoke();
        call.key(self.duty_key(name)).key(self.waiting_key(name)).key(self.log_key());
        call.arg(&self.origin).arg(LOG_LENGTH).arg(Said::Over(name.to_owned(), word).to_string());
        let said = self.redis.script::<u64>(&call).await.is_ok();
        if !said {
            self.failed();
        }
        said
    }
}

/// Those who wait for an answer that another replica makes; one for each answer.
#[derive(Default)]
pub(super) struct Waiting(Mutex<HashMap<String, oneshot::Sender<Word>>>);

impl Waiting {
    /// Gets the word; to be called before another replica's duty is seen.
    pub(super) fn for_word(&self, name: &str) -> oneshot::Receiver<Word> {
        let (wake, woken) = oneshot::channel();
        self.0.lock().insert(name.to_owned(), wake);
        woken
    }

    /// Tells who waits for it, if anybody does.
    pub(super) fn tell(&self, name: &str, word: Word) {
        if let Some(waiting) = self.0.lock().remove(name) {
            let _ = waiting.send(word);
        }
    }

    /// Nobody waits for it here any more.
    pub(super) fn leave(&self, name: &str) {
        self.0.lock().remove(name);
    }

    /// Wakes everybody without a word.
    pub(super) fn give_up(&self) {
        self.0.lock().clear();
    }
}
