//! Answers of models: the request for one, its origin, and the identity under which it is cached.
//!
//! [`CacheKey`] covers everything that could change an answer, and the tenant that it belongs to,
//! so that no tenant is given the answer of another one.

use std::{fmt::Write, time::Duration};

use phase6_chassis::identity::Name;
use sha2::{Digest, Sha256};

use super::{Criticality, MicroDollars, Prompt, ProviderId, Task, Usage};

/// A request for the answer to a prompt.
#[derive(Clone, Debug)]
pub struct AnswerRequest {
    /// Tenant that the answer belongs to. Cached answers are not shared between tenants.
    pub tenant: Name,
    /// Prompt to answer.
    pub prompt: Prompt,
    /// Criticality, or `None` for that of the provider policy.
    pub criticality: Option<Criticality>,
    /// The only provider to call, or `None` for those that [`routing`](super::routing) selects.
    pub provider: Option<ProviderId>,
    /// Time for which the answer may be cached. A zero TTL disables the cache.
    pub ttl: Duration,
}

/// Answer of a model.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Text of the answer.
    pub text: String,
    /// Provider that answered.
    pub provider: String,
    /// Model that answered.
    pub model: String,
    /// Kind of answer that the prompt asked for.
    pub task: Task,
    /// Tokens, if the provider reported them.
    pub usage: Option<Usage>,
    /// Cost that the caller is charged.
    pub cost: MicroDollars,
    /// True if the cost is an estimate, because the provider did not report tokens.
    pub estimated: bool,
    /// Providers that failed before this one answered.
    pub attempts: Vec<FailedAttempt>,
}

/// Origin of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerSource {
    /// A call made for this request.
    Called,
    /// The cache.
    Cached,
    /// The call of an identical request that was in flight.
    Joined,
}

/// A cached answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedAnswer {
    /// Provider that answered.
    pub provider: String,
    /// Model that answered.
    pub model: String,
    /// Text of the answer.
    pub text: String,
}

impl From<&Answer> for CachedAnswer {
    fn from(answer: &Answer) -> Self {
        Self { provider: answer.provider.clone(), model: answer.model.clone(), text: answer.text.clone() }
    }
}

impl CachedAnswer {
    /// Turns the cached answer into one that costs nothing.
    pub fn into_answer(self, task: Task) -> Answer {
        Answer {
            text: self.text,
            provider: self.provider,
            model: self.model,
            task,
            usage: None,
            cost: MicroDollars::ZERO,
            estimated: false,
            attempts: vec![],
        }
    }
}

/// A call to a provider that brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// Provider that was to be called.
    pub provider: ProviderId,
    /// Reason for people.
    pub reason: String,
    /// Time after which to call the provider again, in seconds, if it is known.
    pub retry_after_seconds: Option<u64>,
    /// Cause for programs.
    pub cause: FailureCause,
}

/// Cause of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureCause {
    /// The provider failed, refused, or may not be called now.
    Provider,
    /// No local server responds at the provider's address.
    NotRunning,
    /// The daily budget does not allow the call.
    BudgetExceeded,
    /// The spending cannot be recorded.
    StoreUnavailable,
}

impl FailedAttempt {
    /// Creates a failed attempt. `retry_after` is rounded up to whole seconds, so that nobody
    /// retries too early.
    pub fn new(
        provider: ProviderId,
        cause: FailureCause,
        reason: impl ToString,
        retry_after: Option<Duration>,
    ) -> Self {
        let round_up =
            |wait: Duration| wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
        Self { provider, cause, reason: reason.to_string(), retry_after_seconds: retry_after.map(round_up) }
    }
}

/// Identity of an answer in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey(String);

impl CacheKey {
    /// Computes the key of the answer to `prompt` for `tenant`, by one of `candidates`: providers
    /// with their models.
    pub fn new<'a>(
        tenant: &str,
        prompt: &Prompt,
        task: Task,
        criticality: Criticality,
        candidates: impl Iterator<Item = (ProviderId, &'a str)>,
    ) -> Self {
        let mut hash = Sha256::new();
        // A length precedes each part, so that two different lists of parts never hash alike.
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(tenant.as_bytes());
        part(prompt.system.as_deref().unwrap_or_default().as_bytes());
        part(&[u8::from(prompt.system.is_some())]);
        part(prompt.text.as_bytes());
        part(&prompt.max_tokens.to_be_bytes());
        part(task.as_str().as_bytes());
        part(criticality.as_str().as_bytes());
        for (provider, model) in candidates {
            part(provider.as_str().as_bytes());
            part(model.as_bytes());
        }
        let mut key = String::with_capacity(64);
        for byte in hash.finalize() {
            let _ = write!(key, "{byte:02x}");
        }
        Self(key)
    }

    /// Key as 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the original system used the prompt alone as its key.
    #[test]
    fn everything_that_could_change_an_answer_is_part_of_its_key() {
        let prompt = |text: &str, system: Option<&str>, max_tokens| Prompt {
            text: text.into(),
            system: system.map(Into::into),
            max_tokens,
        };
        let key = |tenant: &str, prompt: &Prompt, criticality, model: &'static str| {
            CacheKey::new(
                tenant,
                prompt,
                Task::General,
                criticality,
                [(ProviderId::OpenAi, model)].into_iter(),
            )
        };
        let base = key("a", &prompt("hi", None, 10), Criticality::Normal, "m");
        assert_eq!(base, key("a", &prompt("hi", None, 10), Criticality::Normal, "m"));
        for other in [
            key("b", &prompt("hi", None, 10), Criticality::Normal, "m"),
            key("a", &prompt("ho", None, 10), Criticality::Normal, "m"),
            key("a", &prompt("hi", Some(""), 10), Criticality::Normal, "m"),
            key("a", &prompt("", Some("hi"), 10), Criticality::Normal, "m"),
            key("a", &prompt("hi", None, 11), Criticality::Normal, "m"),
            key("a", &prompt("hi", None, 10), Criticality::High, "m"),
            key("a", &prompt("hi", None, 10), Criticality::Normal, "n"),
        ] {
            assert_ne!(base, other);
        }
    }

    /// Stored answers are found by this key, so it must not change between versions.
    #[test]
    fn a_key_is_stable_between_versions() {
        let prompt = Prompt { text: "hi".into(), system: None, max_tokens: 10 };
        let key = CacheKey::new(
            "a",
            &prompt,
            Task::General,
            Criticality::Normal,
            [(ProviderId::OpenAi, "m")].into_iter(),
        );
        assert_eq!(key.as_str(), "acefb554cd78c324816c0676e371ab3b045143c1258003cd6fee7a070299f276");
    }

    /// Regression: rounding up the longest wait overflowed.
    #[test]
    fn rounds_any_wait_up_to_whole_seconds() {
        let seconds = |wait| {
            FailedAttempt::new(ProviderId::OpenAi, FailureCause::Provider, "reason", Some(wait))
                .retry_after_seconds
        };
        assert_eq!(seconds(Duration::MAX), Some(u64::MAX));
        assert_eq!(seconds(Duration::from_millis(1_001)), Some(2));
        assert_eq!(seconds(Duration::ZERO), Some(1));
    }
}
