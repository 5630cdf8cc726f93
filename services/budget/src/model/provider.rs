//! The AI providers that the service can call, and their defaults.

use std::fmt;

/// An AI provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each variant is the provider of its name")]
pub enum ProviderId {
    OpenAi,
    DeepSeek,
    Anthropic,
    Gemini,
    HuggingFace,
    Ollama,
    LocalAi,
}

/// Default model of OpenAI.
pub const OPENAI_MODEL: &str = "gpt-6-luna";
/// Default model of DeepSeek.
pub const DEEPSEEK_MODEL: &str = "deepseek-flash";

impl ProviderId {
    /// Every provider, in the order of the enum.
    pub const ALL: [Self; 7] = [
        Self::OpenAi,
        Self::DeepSeek,
        Self::Anthropic,
        Self::Gemini,
        Self::HuggingFace,
        Self::Ollama,
        Self::LocalAi,
    ];

    /// Name in requests, responses and records.
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

    /// Prefix of the names of the provider's settings, such as `OPENAI` in `OPENAI_API_KEY`.
    pub const fn setting_prefix(self) -> &'static str {
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

    /// True for servers that operators run themselves: they need no API key, and count as available
    /// only while they respond.
    pub const fn is_local(self) -> bool {
        matches!(self, Self::Ollama | Self::LocalAi)
    }

    /// Address of the provider's API unless `<PROVIDER>_BASE_URL` is set.
    pub const fn default_base_url(self) -> &'static str {
        match self {
            Self::OpenAi => "https://api.openai.com/v1",
            Self::DeepSeek => "https://api.deepseek.com",
            Self::Anthropic => "https://api.anthropic.com",
            Self::Gemini => "https://generativelanguage.googleapis.com",
            Self::HuggingFace => "https://router.huggingface.co/v1",
            Self::Ollama => "http://127.0.0.1:11434/v1",
            Self::LocalAi => "http://127.0.0.1:8080/v1",
        }
    }

    /// Model to call unless `<PROVIDER>_MODEL` is set: an inexpensive one that was available on
    /// 2026-11-24. [`PriceList::default`](super::PriceList) has the prices of these models.
    pub const fn default_model(self) -> &'static str {
        match self {
            Self::OpenAi => OPENAI_MODEL,
            Self::DeepSeek => DEEPSEEK_MODEL,
            Self::Anthropic => "claude-haiku-4-5",
            Self::Gemini => "gemini-3.5-flash-lite",
            Self::HuggingFace => "meta-llama/Llama-3.1-8B-Instruct",
            Self::Ollama => "llama3.2",
            Self::LocalAi => "gpt-4",
        }
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_is_at_its_index() {
        for (index, id) in ProviderId::ALL.into_iter().enumerate() {
            assert_eq!(id as usize, index, "{id}");
        }
    }
}
