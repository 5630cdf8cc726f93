//! Answers that may be given again: the same prompt is not paid for twice.
//!
//! The key holds everything that could change the answer, and whose answer it is. Failures are
//! never kept. Entries expire, and there is a most of them.

use std::time::Duration;

use jiff::Timestamp;
use phase6_chassis::store::{Row, Store, StoreError, sql};
use sha2::{Digest, Sha256};

use crate::{
    provider::{Prompt, ProviderId},
    routing::{Criticality, Task},
};

/// Most answers kept; the ones that expire soonest leave first.
const MOST: i64 = 10_000;

/// The answers that are kept.
#[derive(Clone)]
pub struct Answers {
    store: Store,
}

/// Identity of a question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question(String);

/// An answer that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Who gave it.
    pub provider: String,
    /// With which model.
    pub model: String,
    /// The text.
    pub text: String,
}

impl Question {
    /// A question of `tenant`, to be answered by one of `candidates` (provider and model).
    pub fn new<'a>(
        tenant: &str,
        prompt: &Prompt,
        task: Task,
        criticality: Criticality,
        candidates: impl Iterator<Item = (ProviderId, &'a str)>,
    ) -> Self {
        let mut hash = Sha256::new();
        // Each part is preceded by its length, so that no two lists of parts look alike.
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
        part(criticality.to_string().as_bytes());
        for (provider, model) in candidates {
            part(provider.as_str().as_bytes());
            part(model.as_bytes());
        }
        let digest = hash.finalize();
        let (high, low) = digest.split_at(16);
        let number = |bytes: &[u8]| u128::from_be_bytes(bytes.try_into().expect("half of 32 bytes"));
        Self(format!("{:032x}{:032x}", number(high), number(low)))
    }
}

impl Answers {
    /// The answers in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The answer to a question, if one is kept.
    ///
    /// # Errors
    ///
    /// The records cannot be read.
    pub async fn get(&self, question: &Question, now: Timestamp) -> Result<Option<Kept>, StoreError> {
        let row = sql("SELECT provider, model, answer FROM budget_answers WHERE id = $1 AND expires_ms > $2")
            .bind(question.0.clone())
            .bind(now.as_millisecond())
            .first(&self.store)
            .await?;
        Ok(row.map(|row| Kept { provider: row.get(0), model: row.get(1), text: row.get(2) }))
    }

    /// Keeps an answer for `ttl`.
    ///
    /// # Errors
    ///
    /// The records cannot be written.
    pub async fn put(
        &self,
        question: &Question,
        kept: &Kept,
        ttl: Duration,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sql("INSERT INTO budget_answers (id, provider, model, answer, expires_ms) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET provider = $2, model = $3, answer = $4, expires_ms = $5")
        .bind(question.0.clone())
        .bind(kept.provider.clone())
        .bind(kept.model.clone())
        .bind(kept.text.clone())
        .bind(now.as_millisecond() + ttl.as_millis() as i64)
        .run(&self.store)
        .await
        .map(drop)
    }

    /// Removes what has expired, and what is too much.
    ///
    /// # Errors
    ///
    /// The records cannot be written.
    pub async fn sweep(&self, now: Timestamp) -> Result<(), StoreError> {
        sql("DELETE FROM budget_answers WHERE expires_ms <= $1")
            .bind(now.as_millisecond())
            .run(&self.store)
            .await?;
        sql("DELETE FROM budget_answers WHERE id IN
             (SELECT id FROM budget_answers ORDER BY expires_ms DESC LIMIT 1000000 OFFSET $1)")
        .bind(MOST)
        .run(&self.store)
        .await
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The original's key was the prompt alone.
    #[test]
    fn everything_that_could_change_an_answer_is_part_of_its_key() {
        let prompt = |text: &str, system: Option<&str>, max_tokens| Prompt {
            text: text.into(),
            system: system.map(Into::into),
            max_tokens,
        };
        let key = |tenant: &str, prompt: &Prompt, criticality, model: &'static str| {
            Question::new(
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
}
