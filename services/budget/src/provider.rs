//! AI providers: which there are, how to talk to them, which can be used now.
//!
//! ```text
//! Request -> wire format (pure) -> HTTPS -> wire format (pure) -> Completion | CallFailed
//! ```
//!
//! A provider's key comes from `<PROVIDER>_API_KEY`, its address may be changed with
//! `<PROVIDER>_BASE_URL`, its model with `<PROVIDER>_MODEL`; `<PROVIDER>_ENABLED=false` leaves it
//! out. Servers that need no key count as available only while they answer.

mod anthropic;
mod client;
mod directory;
mod gemini;
mod openai;
mod sse;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

pub use client::{CallFailed, Client, Streaming, time_for};
pub use directory::{Directory, Provider, ProviderStatus};
pub(crate) use directory::{default_address, default_model};

/// A provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each is the provider of its name")]
pub enum ProviderId {
    OpenAi,
    DeepSeek,
    #[serde(alias = "claude")]
    Anthropic,
    Gemini,
    HuggingFace,
    Ollama,
    LocalAi,
}

impl ProviderId {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::OpenAi,
        Self::DeepSeek,
        Self::Anthropic,
        Self::Gemini,
        Self::HuggingFace,
        Self::Ollama,
        Self::LocalAi,
    ];

    /// As it is written in requests and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::DeepSeek => "deepseek",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::HuggingFace => "huggingface",
            Self::Ollama => "ollama",
            Self::LocalAi => "localai",
        }
    }

    /// The beginning of its settings' names.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::OpenAi => "OPENAI",
            Self::DeepSeek => "DEEPSEEK",
            Self::Anthropic => "ANTHROPIC",
            Self::Gemini => "GEMINI",
            Self::HuggingFace => "HUGGINGFACE",
            Self::Ollama => "OLLAMA",
            Self::LocalAi => "LOCALAI",
        }
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// `POST /chat/completions` as OpenAI documents it; DeepSeek, Hugging Face's router, Ollama and
    /// LocalAI speak it too.
    OpenAi,
    /// `POST /v1/messages`.
    Anthropic,
    /// `POST /v1beta/models/MODEL:generateContent`.
    Gemini,
}

/// What is asked of a model.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The question.
    pub text: String,
    /// What frames it.
    pub system: Option<String>,
    /// Most tokens to come back.
    pub max_tokens: u32,
}

impl Prompt {
    /// Bytes that are sent.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.system.as_ref().map_or(0, String::len)
    }
}

/// Tokens that a call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Sent.
    pub input: u64,
    /// Come back.
    pub output: u64,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The text.
    pub text: String,
    /// Tokens, if the provider said.
    pub usage: Option<Usage>,
}

/// A piece of an answer that comes as a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// More text.
    Text(String),
    /// Tokens used so far; a later one replaces an earlier one.
    Usage(Usage),
    /// The provider says that the answer is complete.
    End,
}

/// What cannot be read as an answer, or as a piece of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It does not follow the documented format.
    #[error("answer does not follow the documented format: {0}")]
    Malformed(String),
    /// The provider says that it cannot go on because too much is asked of it.
    #[error("provider is too busy: {0}")]
    Busy(String),
    /// The provider says that it failed.
    #[error("provider reports an error: {0}")]
    Failed(String),
}

impl Unreadable {
    fn malformed(what: impl ToString) -> Self {
        Self::Malformed(what.to_string())
    }

    /// The error that an answer with status 200 holds instead of a text, if it holds one. All three
    /// formats call it `error`; what says its kind is named differently.
    fn told(value: &Value) -> Option<Self> {
        const BUSY: [&str; 7] =
            ["overloaded", "rate_limit", "resource_exhausted", "unavailable", "429", "503", "529"];
        let error = value.get("error").filter(|error| !error.is_null())?;
        let message = error["message"].as_str().or(error.as_str()).unwrap_or("unknown").to_owned();
        let kinds = ["type", "code", "status"].map(|name| error[name].to_string().to_lowercase());
        let busy = kinds.iter().any(|kind| BUSY.iter().any(|word| kind.contains(word)));
        Some(if busy { Self::Busy(message) } else { Self::Failed(message) })
    }
}

impl Wire {
    /// Path and body of a request to `provider`.
    pub(crate) fn request(
        self,
        provider: ProviderId,
        model: &str,
        prompt: &Prompt,
        stream: bool,
    ) -> (String, Value) {
        match self {
            Self::OpenAi => openai::request(provider, model, prompt, stream),
            Self::Anthropic => anthropic::request(model, prompt, stream),
            Self::Gemini => gemini::request(model, prompt, stream),
        }
    }

    /// Reads a whole answer.
    pub(crate) fn read(self, body: &[u8]) -> Result<Completion, Unreadable> {
        let value = serde_json::from_slice(body).map_err(Unreadable::malformed)?;
        if let Some(told) = Unreadable::told(&value) {
            return Err(told);
        }
        match self {
            Self::OpenAi => openai::read(&value),
            Self::Anthropic => anthropic::read(&value),
            Self::Gemini => gemini::read(&value),
        }
    }

    /// Reads the data of one event of a stream.
    pub(crate) fn read_event(self, data: &str) -> Result<Vec<Piece>, Unreadable> {
        if self == Self::OpenAi && data.trim() == "[DONE]" {
            return Ok(vec![Piece::End]);
        }
        let value = serde_json::from_str(data).map_err(Unreadable::malformed)?;
        if let Some(told) = Unreadable::told(&value) {
            return Err(told);
        }
        match self {
            Self::OpenAi => Ok(openai::read_event(&value)),
            Self::Anthropic => anthropic::read_event(&value),
            Self::Gemini => gemini::read_event(&value),
        }
    }

    /// Whether an event in the stream says that the answer is complete, or the stream's end does.
    pub(crate) fn says_end(self) -> bool {
        self != Self::Gemini
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Counted as answers against the format, they opened the breaker of a provider that had asked
    /// to wait.
    #[test]
    fn documented_errors_within_an_answer_are_told_from_malformed_ones() {
        for (wire, event, busy) in [
            (Wire::OpenAi, json!({"error": {"message": "slow down", "type": "rate_limit_exceeded"}}), true),
            (
                Wire::OpenAi,
                json!({"error": {"message": "oops", "type": "server_error", "code": null}}),
                false,
            ),
            (Wire::OpenAi, json!({"error": "model not loaded"}), false),
            (
                Wire::Anthropic,
                json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
                true,
            ),
            (
                Wire::Anthropic,
                json!({"type": "error", "error": {"type": "api_error", "message": "oops"}}),
                false,
            ),
            (
                Wire::Gemini,
                json!({"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}),
                true,
            ),
            (Wire::Gemini, json!({"error": {"code": 500, "message": "oops", "status": "INTERNAL"}}), false),
        ] {
            let text = event.to_string();
            for error in [wire.read_event(&text).unwrap_err(), wire.read(text.as_bytes()).unwrap_err()] {
                match error {
                    Unreadable::Busy(_) => assert!(busy, "{event}"),
                    Unreadable::Failed(_) => assert!(!busy, "{event}"),
                    Unreadable::Malformed(_) => panic!("{event} is documented"),
                }
            }
        }
        assert!(Wire::OpenAi.read_event(r#"{"choices": [], "error": null}"#).is_ok());
        assert!(matches!(Wire::OpenAi.read_event("{\"cho"), Err(Unreadable::Malformed(_))));
    }
}
