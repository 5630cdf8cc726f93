//! Looking for an answer: found, to be made, or waited for.

use std::sync::{Arc, LazyLock};

use phase6_redis::{RedisError, Script, WaitBudget};
use tokio::{sync::oneshot, time::Instant};

use super::{
    Shared,
    duty::OnDuty,
    history::Place,
    stored::{self, Logged, logged},
};
use crate::{
    Asked, Entry, Found, Ticket,
    duty::{LASTS, Next, Search, Seen, Stored, Wanted, Whose, Word},
};

/// News that one look takes into account; more: it counts as not found.
const NEWS: usize = 100;

static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("read.lua")));

/// As `read.lua` tells it: the answer, for how long it will be there, the news, and whether the duty was given.
pub(super) type Told = (Option<Vec<u8>>, i64, Vec<Logged>, u8);

/// What one look at Redis found.
#[derive(Default)]
struct Read {
    answer: Option<(Entry, u64)>,
    was_forgotten: bool,
    ticket: Ticket,
    /// Somebody else makes the answer.
    word: Option<oneshot::Receiver<Word>>,
}

impl Read {
    fn seen(&self, asked: &Asked<'_>) -> Seen {
        let stored = match &self.answer {
            Some((entry, _)) if (asked.will_do)(entry) => Stored::WillDo,
            None if self.was_forgotten => Stored::Forgotten,
            _ => Stored::Nothing,
        };
        let duty = match (&self.ticket, &self.word) {
            (Some(_), _) => Whose::Own,
            (None, Some(_)) => Whose::Others,
            (None, None) => Whose::Unknown,
        };
        Seen { stored, duty }
    }
}

impl Shared {
    /// Finds an answer that will do, or the duty to make one, or waits for whoever has that duty, if it may.
    /// What will not do is found too: it may stand in for one that fails.
    pub(super) async fn find(self: &Arc<Self>, asked: &Asked<'_>, may_wait: bool) -> Found {
        let (name, begun) = (stored::name(asked.key), Instant::now());
        let (mut search, mut wanted) = Search::begin(may_wait);
        let mut found = Found::default();
        let mut patience = asked.patience;
        loop {
            let looked = Instant::now();
            let Some(read) = self.read(asked, &name, wanted, patience).await else { break };
            patience = patience.after(looked.elapsed());
            let next = search.looked(read.seen(asked), begun.elapsed());
            found = Found { answer: read.answer.or(found.answer), ticket: read.ticket };
            wanted = match (next, read.word) {
                (Next::Look(wanted), _) => wanted,
                (Next::Wait, Some(word)) => {
                    let word = tokio::time::timeout(LASTS, word).await.ok();
                    self.waiting.leave(&name);
                    // That wait was for another replica, not for Redis.
                    patience = WaitBudget::default();
                    // Whoever lost touch would hear of no other one either.
                    search.waited(word.map(|word| word.unwrap_or(Word::Landed)))
                }
                (Next::End | Next::Wait, word) => {
                    if word.is_some() {
                        self.waiting.leave(&name);
                    }
                    break;
                }
            };
        }
        found
    }

    /// Looks for an answer, or for the duty to make one.
    async fn read(
        self: &Arc<Self>,
        asked: &Asked<'_>,
        name: &str,
        wanted: Wanted,
        patience: WaitBudget,
    ) -> Option<Read> {
        if patience.is_exhausted() {
            return None;
        }
        // Before the read: what is carried out meanwhile is judged again by the caller.
        let mark = (asked.now)().mark;
        let pending = self.pending.lock().oldest();
        let carried_out = pending.map_or(mark, |oldest| oldest.min(mark));
        let at = self.history.lock().as_ref()?.at();
        let (may_take, takes_anyway) = (wanted != Wanted::Answer, wanted == Wanted::Duty);
        let word = may_take.then(|| self.waiting.for_word(name));
        let mut call = READ.prepare_invoke();
        call.key(self.answer_key(name))
            .key(self.log_key())
            .key(self.duty_key(name))
            .key(self.waiting_key(name));
        call.arg(at.to_string()).arg(NEWS).arg(u8::from(takes_anyway));
        call.arg(if may_take { &*self.origin } else { "" }).arg(LASTS.as_millis() as u64);
        let answer = self.redis.script_within::<Told>(patience, &call).await;
        let own_duty = || Some(Box::new(OnDuty::taken(self, name.to_owned())) as Box<_>);
        let (bytes, left_ms, news, taken) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.failed();
                self.waiting.leave(name);
                // The call may have run, and others wait for what this replica does not know that it owes them.
                let may_have_run =
                    may_take && !matches!(error, RedisError::Unavailable | RedisError::WrongServer(_));
                return may_have_run.then(|| Read { ticket: own_duty(), ..Read::default() });
            }
        };
        let is_there = bytes.is_some();
        let stored = match (bytes, u64::try_from(left_ms)) {
            (Some(bytes), Ok(left_ms)) => stored::read(bytes, asked.key, left_ms, (asked.now)().ms).await,
            _ => None,
        };
        let answers = |entry: &Entry| entry.answers(&asked.key.tenant, &asked.key.uri, asked.headers);
        let stored = stored.filter(|(entry, _)| answers(entry));
        let was_forgotten =
            stored.as_ref().is_some_and(|(entry, made)| self.was_forgotten(entry, *made, &news));
        let answer = stored.filter(|_| !was_forgotten);
        let taken = taken == 1;
        let others_make_it = !taken && (takes_anyway || !is_there);
        if !others_make_it {
            self.waiting.leave(name);
        }
        Some(Read {
            answer: answer.map(|(entry, _)| (entry, carried_out)),
            was_forgotten,
            ticket: if taken { own_duty() } else { None },
            word: word.filter(|_| others_make_it),
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
