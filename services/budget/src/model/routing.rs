//! The choice of providers for a prompt, and the order in which to call them.
//!
//! The task is classified by the words of the prompt. Task and criticality select a fixed order,
//! which weighs price against quality. Availability of providers is left to `app`.

use std::fmt;

use super::provider::ProviderId::{self, Anthropic, DeepSeek, Gemini, HuggingFace, LocalAi, Ollama, OpenAi};

/// Kind of answer that a prompt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// Imaginative writing.
    Creative,
    /// An explanation or a judgment.
    Reasoning,
    /// Anything else.
    General,
}

/// Weight of quality against price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Criticality {
    /// Prefers free providers.
    Low,
    /// Prefers inexpensive providers.
    #[default]
    Normal,
    /// Prefers providers of high quality.
    High,
    /// Uses only providers of high quality.
    Critical,
}

impl Task {
    /// Name in requests, responses and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creative => "creative",
            Self::Reasoning => "reasoning",
            Self::General => "general",
        }
    }

    /// Classifies a prompt by the words that it contains.
    pub fn classify(prompt: &str) -> Self {
        let text = prompt.to_lowercase();
        let matches =
            |phrases: &[&str]| phrases.iter().filter(|phrase| contains_phrase(&text, phrase)).count();
        let (creative, reasoning) = (matches(&CREATIVE), matches(&REASONING));
        if creative > reasoning {
            Self::Creative
        } else if reasoning > 0 {
            Self::Reasoning
        } else {
            Self::General
        }
    }
}

impl Criticality {
    /// Name in requests, responses and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const CREATIVE: [&str; 11] = [
    "story",
    "poem",
    "lyrics",
    "narrative",
    "creative",
    "write a",
    "script",
    "fiction",
    "metaphor",
    "haiku",
    "limerick",
];
const REASONING: [&str; 11] = [
    "explain why",
    "analyze",
    "analysis",
    "evaluate",
    "compare",
    "trade-off",
    "reason",
    "step by step",
    "proof",
    "derive",
    "why does",
];

/// True if `text` contains `phrase` between word boundaries.
fn contains_phrase(text: &str, phrase: &str) -> bool {
    let is_boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    text.match_indices(phrase).any(|(at, _)| {
        is_boundary(text[..at].chars().next_back()) && is_boundary(text[at + phrase.len()..].chars().next())
    })
}

/// Returns the providers to call for a task, in order of preference.
pub fn candidates(task: Task, criticality: Criticality) -> &'static [ProviderId] {
    use Criticality::{Critical, High, Low, Normal};
    match (criticality, task) {
        (Low, Task::Creative) => &[Ollama, HuggingFace, LocalAi, DeepSeek, Gemini, OpenAi, Anthropic],
        (Low, Task::Reasoning) => &[Ollama, HuggingFace, DeepSeek, Anthropic, OpenAi, Gemini, LocalAi],
        (Low, Task::General) => &[Ollama, HuggingFace, LocalAi, DeepSeek, OpenAi, Anthropic, Gemini],
        (Normal, Task::Creative) => &[DeepSeek, Ollama, Gemini, HuggingFace, Anthropic, OpenAi, LocalAi],
        (Normal, Task::Reasoning) => &[DeepSeek, Anthropic, Ollama, OpenAi, Gemini, HuggingFace, LocalAi],
        (Normal, Task::General) => &[DeepSeek, Ollama, OpenAi, Anthropic, Gemini, HuggingFace, LocalAi],
        (High, Task::Creative) => &[Anthropic, OpenAi, Gemini, DeepSeek, Ollama],
        (High, Task::Reasoning) => &[Anthropic, OpenAi, DeepSeek, Gemini, Ollama],
        (High, Task::General) => &[OpenAi, Anthropic, DeepSeek, Gemini, Ollama],
        (Critical, Task::Creative | Task::General) => &[OpenAi, Anthropic, Gemini, DeepSeek],
        (Critical, Task::Reasoning) => &[Anthropic, OpenAi, Gemini, DeepSeek],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_by_whole_words() {
        for (prompt, task) in [
            ("Write a haiku about rust", Task::Creative),
            ("Compare these two and explain why", Task::Reasoning),
            ("What time is it?", Task::General),
            ("a tie: a story and an analysis", Task::Reasoning),
            // Contains neither the word `story` nor the word `script`.
            ("the history of descriptions", Task::General),
            ("", Task::General),
        ] {
            assert_eq!(Task::classify(prompt), task, "{prompt:?}");
        }
    }

    #[test]
    fn no_order_contains_a_provider_twice() {
        for task in [Task::Creative, Task::Reasoning, Task::General] {
            for criticality in
                [Criticality::Low, Criticality::Normal, Criticality::High, Criticality::Critical]
            {
                let mut distinct = candidates(task, criticality).to_vec();
                let count = distinct.len();
                distinct.sort();
                distinct.dedup();
                assert_eq!(distinct.len(), count);
            }
        }
    }

    #[test]
    fn critical_prompts_use_only_providers_of_high_quality() {
        for task in [Task::Creative, Task::Reasoning, Task::General] {
            assert!(
                candidates(task, Criticality::Critical)
                    .iter()
                    .all(|id| ![Ollama, LocalAi, HuggingFace].contains(id))
            );
        }
    }
}
