//! What a shared cache that keeps tenants apart may answer with, in the words of RFC 9111.
//!
//! Knows what was asked, what the handler said and what was forgotten, each with its moment, and nothing of
//! how the cache works: no parsing, no slots, no flights. It judges each answer after the fact.

use phase6_cache::{Invalidation, Terms};

/// When something happened: its number among all events, and the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    pub event: u64,
    pub ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    pub tenant: &'static str,
    pub has_credentials: bool,
}

/// What is asked for; `name` is the same for each way of writing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub written: &'static str,
    pub name: &'static str,
}

/// What a client wants of a stored answer. Times are in seconds, as they are sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    pub min_fresh: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub who: Who,
    pub target: Target,
    pub method: &'static str,
    pub language: Option<&'static str>,
    pub wish: Wish,
    /// The policy that judges it.
    pub terms: Terms,
    pub begun: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vary {
    Nothing,
    Language,
    Credentials,
    Everything,
}

/// What the handler says. Times are in seconds, as they are sent.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a header or a directive of its own")]
pub struct Reply {
    pub status: u16,
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    /// How long after `Date` it expires.
    pub expires: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
    pub age: u64,
    pub vary: Vary,
    pub has_cookie: bool,
    /// One list for each line.
    pub tags: Vec<Vec<String>>,
    /// Its body ends in an error.
    pub breaks: bool,
}

/// One call of the handler.
#[derive(Clone, Debug)]
pub struct Call {
    /// The request that made it, of those asked.
    pub asker: usize,
    /// A stale answer to a `HEAD` is renewed by one too.
    pub is_get: bool,
    pub begun: Moment,
    pub ended: Option<Moment>,
    pub reply: Reply,
    /// The cache told the asker that it has stored it.
    pub said_stored: bool,
}

/// What a client got.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The call that it was made by; none: the cache made it up.
    pub call: Option<usize>,
    pub status: u16,
    pub age: Option<u64>,
    pub is_hit: bool,
    pub is_stored: bool,
    /// It tells caches in front to give it to nobody else.
    pub is_kept_from_others: bool,
    /// For how many seconds it tells them that it is fresh.
    pub says_fresh_for: Option<u64>,
}

/// All that has happened.
#[derive(Default)]
pub struct History {
    pub requests: Vec<Request>,
    pub calls: Vec<Call>,
    pub forgotten: Vec<(u64, Invalidation)>,
    /// The last one at which memory was lost.
    pub restarted: u64,
}

const LONGEST_NEGATIVE_MS: u64 = 5_000;
/// What a life may be shortened by, so that answers of one moment do not all end at another.
const JITTER: u64 = 10;

impl Reply {
    fn lifetime(&self) -> Option<u64> {
        self.s_maxage.or(self.max_age).or(self.expires)
    }

    fn is_negative(&self) -> bool {
        matches!(self.status, 400..=499)
    }

    pub fn is_failure(&self) -> bool {
        self.breaks || self.status >= 500
    }

    /// For how long it is fresh, in milliseconds, under these terms.
    fn life_ms(&self, terms: &Terms) -> u64 {
        let life = self.lifetime().map_or(u64::MAX, |own| own * 1_000).min(terms.ttl.as_millis() as u64);
        if self.is_negative() { life.min(LONGEST_NEGATIVE_MS) } else { life }
    }

    /// Sections 3, 3.5 and 5.2.2: whether a shared cache may keep it for others, made for this one.
    fn may_be_shared(&self, asker: &Request) -> bool {
        let is_known = match self.status {
            200 | 203 | 300 | 301 | 308 | 404 | 410 => true,
            302 | 307 => self.lifetime().is_some(),
            _ => false,
        };
        let is_explicit = self.public || self.must_revalidate || self.s_maxage.is_some();
        is_known && self.may_be_told_to_others() && (!asker.who.has_credentials || is_explicit)
    }

    fn may_be_told_to_others(&self) -> bool {
        let forbidden = self.no_store || self.no_cache || self.private || self.has_cookie || self.breaks;
        !forbidden && !matches!(self.vary, Vary::Everything | Vary::Credentials)
    }
}

impl History {
    /// Which rule an answer breaks, if it breaks one.
    pub fn judge(&self, id: usize, answer: &Answer, now: Moment) -> Result<(), &'static str> {
        let request = &self.requests[id];
        let Some(number) = answer.call else {
            let was_called = self.calls.iter().any(|call| call.asker == id);
            return match answer.status {
                504 if request.wish.only_if_cached && !was_called => Ok(()),
                502 if self.calls.iter().any(|call| call.asker == id && call.reply.breaks) => Ok(()),
                _ => Err("an answer that nobody made"),
            };
        };
        let call = &self.calls[number];
        let is_safe = matches!(request.method, "GET" | "HEAD");
        if is_safe && request.who.has_credentials && !answer.is_kept_from_others {
            return Err("an answer to credentials that a cache in front may give to others");
        }
        let life = call.reply.life_ms(&request.terms) / 1_000;
        if (answer.is_hit || answer.is_stored) && answer.says_fresh_for.is_none_or(|seconds| seconds > life) {
            return Err("a cache in front may keep it for longer than the policy would");
        }
        if answer.is_stored && !(call.asker == id && self.may_keep(call)) {
            return Err("stored, and must not be");
        }
        if call.asker == id {
            return if answer.is_hit { Err("its own answer is no hit") } else { Ok(()) };
        }
        self.judge_shared(request, call, answer, now)
    }

    fn judge_shared(
        &self,
        request: &Request,
        call: &Call,
        answer: &Answer,
        now: Moment,
    ) -> Result<(), &'static str> {
        let asker = &self.requests[call.asker];
        let Some(ended) = call.ended else { return Err("an answer before it was made") };
        if asker.who.tenant != request.who.tenant {
            return Err("the answer of another tenant");
        }
        if asker.target.name != request.target.name || !call.is_get {
            return Err("the answer to another question");
        }
        let has_waited = ended.event > request.begun.event;
        let is_told_failure = has_waited
            && call.reply.is_failure()
            && call.reply.may_be_told_to_others()
            && !asker.who.has_credentials;
        if request.wish.no_store || !(self.may_keep(call) || is_told_failure) {
            return Err("an answer that is for its asker alone");
        }
        if call.reply.vary == Vary::Language && asker.language != request.language {
            return Err("an answer in another language");
        }
        if self.is_forgotten(call, request.begun.event) {
            return Err("an answer that was forgotten before it was asked for");
        }
        if self.is_replaced(call, request) {
            return Err("an answer older than the one that is there");
        }
        // Chosen at some moment since it was asked for; at the first one it was youngest.
        let first_ms = request.begun.ms.max(ended.ms);
        let age_at = |ms: u64| ms - call.begun.ms + call.reply.age * 1_000;
        if !answer.age.is_some_and(|age| (age_at(first_ms) / 1_000..=age_at(now.ms) / 1_000).contains(&age)) {
            return Err("an age that is not true");
        }
        if is_told_failure || has_waited && call.reply.lifetime().is_none_or(|own| own > call.reply.age) {
            return Ok(());
        }
        self.judge_age(request, &call.reply, age_at(first_ms))
    }

    /// Sections 4.2, 5.2.1 and RFC 5861: whether an answer of this age will do.
    fn judge_age(&self, request: &Request, reply: &Reply, age: u64) -> Result<(), &'static str> {
        let (wish, terms) = (&request.wish, &request.terms);
        let life = reply.life_ms(terms);
        let is_young = wish.max_age.is_none_or(|most| age <= most * 1_000);
        let lasts = wish.min_fresh.is_none_or(|least| age + least * 1_000 <= life);
        if age < life && !wish.no_cache && is_young && lasts {
            return Ok(());
        }
        if reply.must_revalidate || reply.s_maxage.is_some() || reply.is_negative() {
            return Err("a stale answer that must not be used stale");
        }
        let allowed = |own: Option<u64>, granted: std::time::Duration| {
            let granted = granted.as_millis() as u64;
            age < life + own.map_or(granted, |own| granted.min(own * 1_000))
        };
        let wants_fresh = wish.no_cache || wish.max_age.is_some() || wish.min_fresh.is_some();
        if !wants_fresh && allowed(reply.stale_while_revalidate, terms.stale_while_revalidate) {
            return Ok(());
        }
        let has_failed = self.calls.iter().any(|call| {
            let asker = &self.requests[call.asker];
            let is_same = asker.who.tenant == request.who.tenant && asker.target.name == request.target.name;
            let ended = call.ended.is_some_and(|ended| ended.event > request.begun.event);
            is_same && ended && call.is_get && call.reply.is_failure()
        });
        if has_failed && allowed(reply.stale_if_error, terms.stale_if_error) {
            return Ok(());
        }
        Err("an answer older than allowed")
    }

    fn may_keep(&self, call: &Call) -> bool {
        let asker = &self.requests[call.asker];
        !asker.wish.no_store && call.reply.may_be_shared(asker)
    }

    /// Whether something that means it was forgotten after its making began and before `event`.
    fn is_forgotten(&self, call: &Call, event: u64) -> bool {
        let path = self.requests[call.asker].target.name.split('?').next().unwrap_or_default();
        self.forgotten.iter().any(|(at, what)| {
            let is_meant = match what {
                Invalidation::All => true,
                Invalidation::Path(meant) => path == meant,
                Invalidation::Prefix(meant) => {
                    let (segments, meant) = (path.split('/'), meant.trim_end_matches('/').split('/'));
                    meant.clone().count() <= segments.clone().count()
                        && segments.zip(meant).all(|(a, b)| a == b)
                }
                Invalidation::Tag(meant) => call.reply.tags.iter().flatten().any(|tag| tag == meant),
            };
            is_meant && (call.begun.event..event).contains(at)
        })
    }

    /// Section 4: of several the most recent one is to be used.
    fn is_replaced(&self, call: &Call, request: &Request) -> bool {
        self.calls.iter().any(|newer| {
            newer.said_stored
                // One that does not vary is gone as soon as another one that does is stored.
                && !(newer.reply.vary == Vary::Nothing && call.reply.vary == Vary::Language)
                && call.ended.is_some_and(|ended| ended.event < newer.begun.event)
                && newer.ended.is_some_and(|ended| ended.event < request.begun.event)
                && self.suits(newer, request)
                && !self.is_forgotten(newer, u64::MAX)
        })
    }

    fn suits(&self, call: &Call, request: &Request) -> bool {
        let asker = &self.requests[call.asker];
        asker.who.tenant == request.who.tenant
            && asker.target.name == request.target.name
            && (call.reply.vary == Vary::Nothing || asker.language == request.language)
    }

    /// The call whose answer this request has to be given at once: it was the last one, it was stored, it is
    /// fresh whatever its life was shortened by, and nobody forgot it. A cache that never used what it has
    /// would break no other rule.
    pub fn must_use(&self, id: usize) -> Option<usize> {
        let request = &self.requests[id];
        let (wish, terms) = (&request.wish, &request.terms);
        if !matches!(request.method, "GET" | "HEAD") || wish.no_store || wish.no_cache {
            return None;
        }
        let of_key = |call: &&Call| {
            let asker = &self.requests[call.asker];
            asker.who.tenant == request.who.tenant && asker.target.name == request.target.name
        };
        if self.calls.iter().filter(of_key).any(|call| call.ended.is_none()) {
            return None;
        }
        let (number, last) = self
            .calls
            .iter()
            .enumerate()
            .filter(|(_, call)| of_key(call))
            .max_by_key(|(_, call)| call.ended.map(|ended| ended.event))?;
        let is_there = last.said_stored && last.begun.event > self.restarted;
        if !is_there || !self.suits(last, request) || self.is_forgotten(last, u64::MAX) {
            return None;
        }
        let age = request.begun.ms - last.begun.ms + last.reply.age * 1_000;
        let life = last.reply.life_ms(terms);
        let life = life - life.div_ceil(JITTER);
        let is_young = wish.max_age.is_none_or(|most| age <= most * 1_000);
        let lasts = age + wish.min_fresh.unwrap_or(0) * 1_000 < life;
        (is_young && lasts).then_some(number)
    }
}
