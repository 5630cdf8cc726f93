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

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use client::{CallFailed, Client, Streaming};
pub use directory::{Directory, Provider, ProviderStatus};

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

    /// All names, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ProviderId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = if text == "claude" { "anthropic" } else { text };
        Self::ALL
            .into_iter()
            .find(|id| id.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no provider; accepted: {}", Self::names()))
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

/// An answer that does not follow the documented format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("answer does not follow the documented format: {0}")]
pub struct Malformed(pub String);

impl Wire {
    /// Path and body of a request.
    pub(crate) fn request(self, model: &str, prompt: &Prompt, stream: bool) -> (String, serde_json::Value) {
        match self {
            Self::OpenAi => openai::request(model, prompt, stream),
            Self::Anthropic => anthropic::request(model, prompt, stream),
            Self::Gemini => gemini::request(model, prompt, stream),
        }
    }

    /// Reads a whole answer.
    pub(crate) fn read(self, body: &[u8]) -> Result<Completion, Malformed> {
        let value = serde_json::from_slice(body).map_err(|error| Malformed(error.to_string()))?;
        match self {
            Self::OpenAi => openai::read(&value),
            Self::Anthropic => anthropic::read(&value),
            Self::Gemini => gemini::read(&value),
        }
    }

    /// Reads the data of one event of a stream.
    pub(crate) fn read_event(self, data: &str) -> Result<Vec<Piece>, Malformed> {
        if self == Self::OpenAi && data.trim() == "[DONE]" {
            return Ok(vec![Piece::End]);
        }
        let value = serde_json::from_str(data).map_err(|error| Malformed(error.to_string()))?;
        match self {
            Self::OpenAi => openai::read_event(&value),
            Self::Anthropic => anthropic::read_event(&value),
            Self::Gemini => gemini::read_event(&value),
        }
    }

    /// Whether an event in the stream says that the answer is complete, or the stream's end does.
    pub(crate) fn says_end(self) -> bool {
        self != Self::Gemini
    }
}
