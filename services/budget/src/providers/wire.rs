//! Wire formats of the providers. Pure: translates between prompts and JSON, and does no I/O.

mod anthropic;
mod gemini;
mod openai;

use serde_json::Value;

use crate::model::{Prompt, ProviderId, Usage};

/// Wire format of a provider's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WireFormat {
    /// `POST /chat/completions` as OpenAI documents it; also used by DeepSeek, the router of Hugging
    /// Face, Ollama and LocalAI.
    OpenAi,
    /// `POST /v1/messages`.
    Anthropic,
    /// `POST /v1beta/models/MODEL:generateContent`.
    Gemini,
}

/// Form in which an answer is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// One response with the whole answer.
    Whole,
    /// A stream of server-sent events.
    Stream,
}

/// A request in a wire format.
#[derive(Debug)]
pub(crate) struct WireRequest {
    /// Path and query below the base URL.
    pub(crate) path: String,
    /// Body of the request.
    pub(crate) body: Value,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Text of the answer.
    pub text: String,
    /// Tokens, if the provider reported them.
    pub usage: Option<Usage>,
}

/// A part of a streamed answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunk {
    /// More text.
    Text(String),
    /// Tokens used so far. Several reports are merged with [`Usage::merge`].
    Usage(Usage),
    /// The end of the answer.
    End,
}

/// A response, or an event of a stream, that holds no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    /// The response does not follow the documented format.
    #[error("response does not follow the documented format: {0}")]
    Malformed(String),
    /// The provider reports that it is overloaded.
    #[error("provider is overloaded: {0}")]
    Overloaded(String),
    /// The provider reports an error.
    #[error("provider reports an error: {0}")]
    Reported(String),
}

impl ReadError {
    fn malformed(detail: impl ToString) -> Self {
        Self::Malformed(detail.to_string())
    }

    /// Returns the error that a response with status 200 holds instead of an answer, if it holds
    /// one. All formats call it `error`, and name its kind differently.
    fn reported(value: &Value) -> Option<Self> {
        const OVERLOADED: [&str; 7] =
            ["overloaded", "rate_limit", "resource_exhausted", "unavailable", "429", "503", "529"];
        let error = value.get("error").filter(|error| !error.is_null())?;
        let message = error["message"].as_str().or(error.as_str()).unwrap_or("unknown").to_owned();
        let kinds = ["type", "code", "status"].map(|name| error[name].to_string().to_lowercase());
        let is_overloaded = kinds.iter().any(|kind| OVERLOADED.iter().any(|word| kind.contains(word)));
        Some(if is_overloaded { Self::Overloaded(message) } else { Self::Reported(message) })
    }
}

impl WireFormat {
    /// Returns the wire format of a provider.
    pub(crate) fn of(id: ProviderId) -> Self {
        match id {
            ProviderId::Anthropic => Self::Anthropic,
            ProviderId::Gemini => Self::Gemini,
            ProviderId::OpenAi
            | ProviderId::DeepSeek
            | ProviderId::HuggingFace
            | ProviderId::Ollama
            | ProviderId::LocalAi => Self::OpenAi,
        }
    }

    /// Returns the request for an answer to `prompt`.
    pub(crate) fn request(
        self,
        provider: ProviderId,
        model: &str,
        prompt: &Prompt,
        delivery: Delivery,
    ) -> WireRequest {
        match self {
            Self::OpenAi => openai::request(provider, model, prompt, delivery),
            Self::Anthropic => anthropic::request(model, prompt, delivery),
            Self::Gemini => gemini::request(model, prompt, delivery),
        }
    }

    /// Reads a whole answer.
    pub(crate) fn read(self, body: &[u8]) -> Result<Completion, ReadError> {
        let value = serde_json::from_slice(body).map_err(ReadError::malformed)?;
        if let Some(error) = ReadError::reported(&value) {
            return Err(error);
        }
        match self {
            Self::OpenAi => openai::read(&value),
            Self::Anthropic => anthropic::read(&value),
            Self::Gemini => gemini::read(&value),
        }
    }

    /// Reads the data of one event of a stream.
    pub(crate) fn read_event(self, data: &str) -> Result<Vec<Chunk>, ReadError> {
        if self == Self::OpenAi && data.trim() == "[DONE]" {
            return Ok(vec![Chunk::End]);
        }
        let value = serde_json::from_str(data).map_err(ReadError::malformed)?;
        if let Some(error) = ReadError::reported(&value) {
            return Err(error);
        }
        match self {
            Self::OpenAi => Ok(openai::read_event(&value)),
            Self::Anthropic => anthropic::read_event(&value),
            Self::Gemini => gemini::read_event(&value),
        }
    }

    /// True if an event marks the end of a stream. Otherwise the end of the body does.
    pub(crate) fn has_end_event(self) -> bool {
        self != Self::Gemini
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Regression: reported errors counted as malformed responses and opened the breaker of a provider
    /// that was only overloaded.
    #[test]
    fn distinguishes_reported_errors_from_malformed_responses() {
        for (format, event, is_overloaded) in [
            (
                WireFormat::OpenAi,
                json!({"error": {"message": "slow down", "type": "rate_limit_exceeded"}}),
                true,
            ),
            (
                WireFormat::OpenAi,
                json!({"error": {"message": "oops", "type": "server_error", "code": null}}),
                false,
            ),
            (WireFormat::OpenAi, json!({"error": "model not loaded"}), false),
            (
                WireFormat::Anthropic,
                json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
                true,
            ),
            (
                WireFormat::Anthropic,
                json!({"type": "error", "error": {"type": "api_error", "message": "oops"}}),
                false,
            ),
            (
                WireFormat::Gemini,
                json!({"error": {"code": 429, "message": "quota", "status": "RESOURCE_EXHAUSTED"}}),
                true,
            ),
            (
                WireFormat::Gemini,
                json!({"error": {"code": 500, "message": "oops", "status": "INTERNAL"}}),
                false,
            ),
        ] {
            let text = event.to_string();
            for error in [format.read_event(&text).unwrap_err(), format.read(text.as_bytes()).unwrap_err()] {
                match error {
                    ReadError::Overloaded(_) => assert!(is_overloaded, "{event}"),
                    ReadError::Reported(_) => assert!(!is_overloaded, "{event}"),
                    ReadError::Malformed(_) => panic!("{event} is documented"),
                }
            }
        }
        assert!(WireFormat::OpenAi.read_event(r#"{"choices": [], "error": null}"#).is_ok());
        assert!(matches!(WireFormat::OpenAi.read_event("{\"cho"), Err(ReadError::Malformed(_))));
    }
}
