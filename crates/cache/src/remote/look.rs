//! Looking for an answer: found, to be made, or waited for.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use phase6_redis::{RedisError, Script};
use tokio::sync::oneshot;

use super::{
    Shared,
    duty::{self, Duty},
    history::Place,
    stored::{self, Logged, logged},
};
use crate::{Asked, Entry, Found, Ticket};

/// News that one look takes into account; more: it counts as not found.
const NEWS: usize = 100;
/// Nobody waits longer for another replica's answer, however long that works on it.
const PATIENCE: Duration = Duration::from_mins(1);

static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("read.lua")));

/// As `read.lua` tells it: the answer, for how long it will be there, the news, and whether the duty was given.
pub(super) type Told = (Option<Vec<u8>>, i64, Vec<Logged>, u8);

/// What one look at Redis found.
#[derive(Default)]
struct Read {
    answer: Option<(Entry, u64)>,
    ticket: Ticket,
    /// Somebody else makes the answer.
    landing: Option<oneshot::Receiver<()>>,
}

impl From<Read> for Found {
    fn from(read: Read) -> Self {
        Self { answer: read.answer, ticket: read.ticket }
    }
}

impl Read {
    fn will_do(&self, asked: &Asked<'_>) -> bool {
        self.answer.as_ref().is_some_and(|(entry, _)| (asked.will_do)(entry))
    }
}

impl Shared {
    /// Finds an answer that will do, or the duty to make one, or waits for whoever has that duty, if it may.
    /// What will not do is found too: it may stand in for one that fails.
    pub(super) async fn find(self: &Arc<Self>, asked: &Asked<'_>, may_wait: bool) -> Found {
        let name = stored::name(asked.key);
        let Some(mut read) = self.read(asked, &name, may_wait.then_some(false)).await else {
            return Found::default();
        };
        if may_wait && !read.will_do(asked) && read.ticket.is_none() && read.landing.is_none() {
            // There is one that will not do: whoever makes another one may be done by now.
            read = match self.read(asked, &name, Some(true)).await {
                Some(second) => second,
                None => return read.into(),
            };
        }
        let begun = Instant::now();
        while let Some(landing) = read.landing.take() {
            if read.will_do(asked) || begun.elapsed() > PATIENCE {
                self.waiting.landed(&name);
                break;
            }
            let is_late = tokio::time::timeout(duty::LASTS, landing).await.is_err();
            self.waiting.landed(&name);
            // If it landed and there is still nothing, it cannot be shared: everybody makes it for itself. If
            // there was no word of it, it is still worked on, or the duty has ended.
            let Some(again) = self.read(asked, &name, is_late.then_some(true)).await else { break };
            let before = read.answer.take();
            read = Read { answer: again.answer.or(before), ..again };
        }
        read.into()
    }

    /// Looks for an answer. `duty` asks for the duty to make one: even if there is one, or only if not.
    async fn read(self: &Arc<Self>, asked: &Asked<'_>, name: &str, duty: Option<bool>) -> Option<Read> {
        // Before the read: what is carried out meanwhile is judged again by the caller.
        let pending = self.pending.lock().oldest();
        let carried_out = pending.map_or(asked.mark, |oldest| oldest.min(asked.mark));
        let at = self.history.lock().as_ref()?.at();
        let landing = duty.map(|_| self.waiting.for_landing(name));
        let mut call = READ.prepare_invoke();
        call.key(self.answer_key(name))
            .key(self.log_key())
            .key(self.duty_key(name))
            .key(self.waiting_key(name));
        call.arg(at.to_string()).arg(NEWS).arg(u8::from(duty == Some(true)));
        call.arg(if duty.is_some() { &*self.origin } else { "" }).arg(duty::LASTS.as_millis() as u64);
        let answer = self.redis.script::<Told>(&call).await;
        let own_duty = || Some(Box::new(Duty::taken(self, name.to_owned())) as Box<_>);
        let (bytes, left_ms, news, taken) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.failed();
                self.waiting.landed(name);
                // The call may have run, and others wait for what this replica does not know that it owes them.
                let may_have_run =
                    duty.is_some() && !matches!(error, RedisError::Gone | RedisError::Elsewhere(_));
                return may_have_run.then(|| Read { ticket: own_duty(), ..Read::default() });
            }
        };
        let is_there = bytes.is_some();
        let stored = match (bytes, u64::try_from(left_ms)) {
            (Some(bytes), Ok(left_ms)) => stored::read(bytes, asked.key, left_ms, asked.now_ms).await,
            _ => None,
        };
        let answers = |entry: &Entry| entry.answers(&asked.key.tenant, &asked.key.uri, asked.headers);
        let answer =
            stored.filter(|(entry, made)| answers(entry) && !self.was_forgotten(entry, *made, &news));
        let taken = taken == 1;
        let others_make_it = !taken && (duty == Some(true) || !is_there);
        if !others_make_it {
            self.waiting.landed(name);
        }
        Some(Read {
            answer: answer.map(|(entry, _)| (entry, carried_out)),
            ticket: if taken { own_duty() } else { None },
            landing: landing.filter(|_| others_make_it),
        })
    }

    fn was_forgotten(&self, entry: &Entry, made: Place, news: &[Logged]) -> bool {
        news.len() >= NEWS
            || news.iter().any(|news| {
                logged(news).is_none_or(|(place, _, said)| {
                    place > made && said.forgotten().is_some_and(|what| what.means(entry))
                })
            })
            || self.history.lock().as_ref().is_none_or(|history| history.has_forgotten(made, entry))
    }
}
