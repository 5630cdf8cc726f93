//! Model of the responses that a shared cache which isolates tenants may give, by RFC 9111.
//!
//! Knows the requests, the origin's responses and the invalidations, each with its moment. Knows nothing of
//! the cache's implementation: no parsing, no slots, no single flight. It checks each response after the
//! fact.

use phase6_cache::{CachePolicy, Invalidation};

/// Moment of an event: its number among all events, and the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    pub event: u64,
    pub ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    pub tenant: &'static str,
    pub has_credentials: bool,
}

/// Target of a request, as it is sent and in its normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub sent: &'static str,
    pub normalized: &'static str,
}

impl Target {
    pub fn path(&self) -> &'static str {
        self.normalized.split('?').next().unwrap_or_default()
    }
}

/// `Cache-Control` of a request. Times are in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestControl {
    pub no_store: bool,
    pub no_cache: bool,
    pub only_if_cached: bool,
    pub max_age: Option<u64>,
    pub min_fresh: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub sender: Sender,
    pub target: Target,
    pub method: &'static str,
    pub language: Option<&'static str>,
    pub control: RequestControl,
    /// Policy in force for the request.
    pub policy: CachePolicy,
    pub started: Moment,
}

impl Request {
    pub fn is_safe(&self) -> bool {
        matches!(self.method, "GET" | "HEAD")
    }

    fn has_same_key(&self, other: &Self) -> bool {
        self.sender.tenant == other.sender.tenant && self.target.normalized == other.target.normalized
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vary {
    Nothing,
    Language,
    Credentials,
    Everything,
}

/// Response of the origin. Times are in seconds.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a separate header or directive")]
pub struct OriginResponse {
    pub status: u16,
    pub no_store: bool,
    pub no_cache: bool,
    pub private: bool,
    pub public: bool,
    pub must_revalidate: bool,
    pub max_age: Option<u64>,
    pub s_maxage: Option<u64>,
    /// Time from `Date` to `Expires`.
    pub expires: Option<u64>,
    pub stale_while_revalidate: Option<u64>,
    pub stale_if_error: Option<u64>,
    pub age: u64,
    pub vary: Vary,
    pub has_cookie: bool,
    /// Tags, one list per `Surrogate-Key` line.
    pub tags: Vec<Vec<String>>,
    /// True if the body ends in an error.
    pub breaks: bool,
}

/// One call of the origin.
#[derive(Clone, Debug)]
pub struct Call {
    /// Number of the request that caused the call.
    pub requester: usize,
    /// False for a `HEAD` request that is forwarded. The refresh of a stale response to `HEAD` is a `GET`.
    pub is_get: bool,
    pub started: Moment,
    pub ended: Option<Moment>,
    pub response: OriginResponse,
    /// True if `Cache-Status` reported that the response was stored.
    pub reported_stored: bool,
}

/// Response that a client received.
#[derive(Clone, Debug)]
pub struct ClientResponse {
    /// Number of the origin's call; `None` if the cache generated the response.
    pub call: Option<usize>,
    pub status: u16,
    pub age: Option<u64>,
    pub is_hit: bool,
    pub is_stored: bool,
    /// True if no downstream cache may give the response to other clients.
    pub is_private: bool,
    /// Freshness lifetime for downstream caches, in seconds.
    pub downstream_max_age: Option<u64>,
}

pub struct InvalidationEvent {
    pub event: u64,
    pub invalidation: Invalidation,
}

/// Everything that has happened in a sequence.
#[derive(Default)]
pub struct History {
    pub requests: Vec<Request>,
    pub calls: Vec<Call>,
    pub invalidations: Vec<InvalidationEvent>,
    /// Event of the last restart, at which the memory was lost.
    pub restarted_at: u64,
}

const MAX_NEGATIVE_LIFETIME_MS: u64 = 5_000;
/// Divisor for the largest share of a freshness lifetime that jitter may take away: a tenth.
const JITTER_DIVISOR: u64 = 10;

impl OriginResponse {
    fn lifetime(&self) -> Option<u64> {
        self.s_maxage.or(self.max_age).or(self.expires)
    }

    fn is_negative(&self) -> bool {
        matches!(self.status, 400..=499)
    }

    pub fn is_failure(&self) -> bool {
        self.breaks || self.status >= 500
    }

    /// Returns the freshness lifetime under a policy, in milliseconds.
    fn lifetime_ms(&self, policy: &CachePolicy) -> u64 {
        let stated = self.lifetime().map_or(u64::MAX, |seconds| seconds * 1_000);
        let lifetime = stated.min(policy.ttl.as_millis() as u64);
        if self.is_negative() { lifetime.min(MAX_NEGATIVE_LIFETIME_MS) } else { lifetime }
    }

    /// Sections 3, 3.5 and 5.2.2: returns true if a shared cache may store the response to this request.
    fn is_storable(&self, requester: &Request) -> bool {
        let is_known_status = match self.status {
            200 | 203 | 300 | 301 | 308 | 404 | 410 => true,
            302 | 307 => self.lifetime().is_some(),
            _ => false,
        };
        let is_explicit = self.public || self.must_revalidate || self.s_maxage.is_some();
        is_known_status && self.is_shareable() && (!requester.sender.has_credentials || is_explicit)
    }

    fn is_shareable(&self) -> bool {
        let forbidden = self.no_store || self.no_cache || self.private || self.has_cookie || self.breaks;
        !forbidden && !matches!(self.vary, Vary::Everything | Vary::Credentials)
    }
}

impl History {
    /// Returns the rule that a response breaks, if it breaks one.
    pub fn check(&self, id: usize, response: &ClientResponse, now: Moment) -> Result<(), &'static str> {
        let request = &self.requests[id];
        let Some(number) = response.call else {
            let was_called = self.calls.iter().any(|call| call.requester == id);
            return match response.status {
                504 if request.control.only_if_cached && !was_called => Ok(()),
                502 if self.calls.iter().any(|call| call.requester == id && call.response.breaks) => Ok(()),
                _ => Err("a response that the origin did not send"),
            };
        };
        let call = &self.calls[number];
        if request.is_safe() && request.sender.has_credentials && !response.is_private {
            return Err("a response to credentials that a downstream cache may give to other clients");
        }
        let lifetime = call.response.lifetime_ms(&request.policy) / 1_000;
        if (response.is_hit || response.is_stored)
            && response.downstream_max_age.is_none_or(|seconds| seconds > lifetime)
        {
            return Err("a downstream cache may use it for longer than the policy allows");
        }
        if response.is_stored && !(call.requester == id && self.may_store(call)) {
            return Err("a response was stored that must not be");
        }
        if call.requester == id {
            return if response.is_hit {
                Err("a response to its own requester is not a hit")
            } else {
                Ok(())
            };
        }
        self.check_shared(request, call, response, now)
    }

    /// Checks a response to another request than the one that caused the call.
    fn check_shared(
        &self,
        request: &Request,
        call: &Call,
        response: &ClientResponse,
        now: Moment,
    ) -> Result<(), &'static str> {
        let requester = &self.requests[call.requester];
        let Some(ended) = call.ended else { return Err("a response before its call ended") };
        if requester.sender.tenant != request.sender.tenant {
            return Err("the response of another tenant");
        }
        if requester.target.normalized != request.target.normalized || !call.is_get {
            return Err("the response to another target");
        }
        let has_waited = ended.event > request.started.event;
        let is_shared_failure = has_waited
            && call.response.is_failure()
            && call.response.is_shareable()
            && !requester.sender.has_credentials;
        if request.control.no_store || !(self.may_store(call) || is_shared_failure) {
            return Err("a response that is for its requester only");
        }
        if call.response.vary == Vary::Language && requester.language != request.language {
            return Err("a response in another language");
        }
        if self.is_invalidated(call, request.started.event) {
            return Err("a response that was invalidated before the request");
        }
        if self.is_replaced(call, request) {
            return Err("a response older than the stored one");
        }
        // The cache chose the response at some moment after the request; at the first one it was youngest.
        let first_ms = request.started.ms.max(ended.ms);
        let age_at = |ms: u64| ms - call.started.ms + call.response.age * 1_000;
        let ages = age_at(first_ms) / 1_000..=age_at(now.ms) / 1_000;
        if !response.age.is_some_and(|age| ages.contains(&age)) {
            return Err("a wrong Age");
        }
        let was_fresh_on_arrival =
            call.response.lifetime().is_none_or(|lifetime| lifetime > call.response.age);
        if is_shared_failure || has_waited && was_fresh_on_arrival {
            return Ok(());
        }
        self.check_age(request, &call.response, age_at(first_ms))
    }

    /// Sections 4.2, 5.2.1 and RFC 5861: checks the age of a response, in milliseconds.
    fn check_age(
        &self,
        request: &Request,
        response: &OriginResponse,
        age_ms: u64,
    ) -> Result<(), &'static str> {
        let (control, policy) = (&request.control, &request.policy);
        let lifetime_ms = response.lifetime_ms(policy);
        let is_young_enough = control.max_age.is_none_or(|seconds| age_ms <= seconds * 1_000);
        let is_fresh_enough = control.min_fresh.is_none_or(|seconds| age_ms + seconds * 1_000 <= lifetime_ms);
        if age_ms < lifetime_ms && !control.no_cache && is_young_enough && is_fresh_enough {
            return Ok(());
        }
        if response.must_revalidate || response.s_maxage.is_some() || response.is_negative() {
            return Err("a stale response that must not be served stale");
        }
        let is_allowed = |stated: Option<u64>, granted: std::time::Duration| {
            let granted_ms = granted.as_millis() as u64;
            age_ms < lifetime_ms + stated.map_or(granted_ms, |seconds| granted_ms.min(seconds * 1_000))
        };
        let rejects_stale = control.no_cache || control.max_age.is_some() || control.min_fresh.is_some();
        if !rejects_stale && is_allowed(response.stale_while_revalidate, policy.stale_while_revalidate) {
            return Ok(());
        }
        let has_failed = self.calls.iter().any(|call| {
            let has_ended = call.ended.is_some_and(|ended| ended.event > request.started.event);
            self.requests[call.requester].has_same_key(request)
                && has_ended
                && call.is_get
                && call.response.is_failure()
        });
        if has_failed && is_allowed(response.stale_if_error, policy.stale_if_error) {
            return Ok(());
        }
        Err("a response older than allowed")
    }

    fn may_store(&self, call: &Call) -> bool {
        let requester = &self.requests[call.requester];
        !requester.control.no_store && call.response.is_storable(requester)
    }

    /// Returns true if an invalidation after the start of the call and before `event` matches the response.
    fn is_invalidated(&self, call: &Call, event: u64) -> bool {
        let path = self.requests[call.requester].target.path();
        self.invalidations.iter().any(|InvalidationEvent { event: at, invalidation }| {
            let matches = match invalidation {
                Invalidation::All => true,
                Invalidation::Path(invalidated) => path == invalidated,
                Invalidation::Prefix(prefix) => {
                    let (segments, prefix) = (path.split('/'), prefix.trim_end_matches('/').split('/'));
                    prefix.clone().count() <= segments.clone().count()
                        && segments.zip(prefix).all(|(a, b)| a == b)
                }
                Invalidation::Tag(invalidated) => {
                    call.response.tags.iter().flatten().any(|tag| tag == invalidated)
                }
            };
            matches && (call.started.event..event).contains(at)
        })
    }

    /// Section 4: returns true if a more recent response was stored, which has to be used instead.
    fn is_replaced(&self, call: &Call, request: &Request) -> bool {
        self.calls.iter().any(|newer| {
            newer.reported_stored
                // Storing a response that varies removes one that does not; older variants may be used again
                // then.
                && !(newer.response.vary == Vary::Nothing && call.response.vary == Vary::Language)
                && call.ended.is_some_and(|ended| ended.event < newer.started.event)
                && newer.ended.is_some_and(|ended| ended.event < request.started.event)
                && self.matches_request(newer, request)
                && !self.is_invalidated(newer, u64::MAX)
        })
    }

    fn matches_request(&self, call: &Call, request: &Request) -> bool {
        let requester = &self.requests[call.requester];
        requester.has_same_key(request)
            && (call.response.vary == Vary::Nothing || requester.language == request.language)
    }

    /// Returns the call whose response has to answer this request at once: the last call for the key, whose
    /// response was stored, is fresh under any jitter, and was not invalidated. Without this rule a cache
    /// that never hits would pass.
    pub fn required_hit(&self, id: usize) -> Option<usize> {
        let request = &self.requests[id];
        let (control, policy) = (&request.control, &request.policy);
        if !request.is_safe() || control.no_store || control.no_cache {
            return None;
        }
        let has_same_key = |call: &&Call| self.requests[call.requester].has_same_key(request);
        if self.calls.iter().filter(has_same_key).any(|call| call.ended.is_none()) {
            return None;
        }
        let (number, last) = self
            .calls
            .iter()
            .enumerate()
            .filter(|(_, call)| has_same_key(call))
            .max_by_key(|(_, call)| call.ended.map(|ended| ended.event))?;
        let is_in_memory = last.reported_stored && last.started.event > self.restarted_at;
        if !is_in_memory || !self.matches_request(last, request) || self.is_invalidated(last, u64::MAX) {
            return None;
        }
        let age_ms = request.started.ms - last.started.ms + last.response.age * 1_000;
        let lifetime_ms = last.response.lifetime_ms(policy);
        let shortest_lifetime_ms = lifetime_ms - lifetime_ms.div_ceil(JITTER_DIVISOR);
        let is_young_enough = control.max_age.is_none_or(|seconds| age_ms <= seconds * 1_000);
        let is_fresh_enough = age_ms + control.min_fresh.unwrap_or(0) * 1_000 < shortest_lifetime_ms;
        (is_young_enough && is_fresh_enough).then_some(number)
    }
}
