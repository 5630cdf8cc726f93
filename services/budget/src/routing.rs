//! Which providers to try for a prompt, and in which order. Pure.
//!
//! The task is read from the prompt's words; task and criticality choose an order that sets price
//! against quality.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::provider::ProviderId::{self, Anthropic, DeepSeek, Gemini, HuggingFace, LocalAi, Ollama, OpenAi};

/// What kind of answer a prompt wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// A text of imagination.
    Creative,
    /// An explanation or a judgement.
    Reasoning,
    /// Anything else.
    General,
}

/// How much quality counts against price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Criticality {
    /// Free ones first.
    Low,
    /// Cheap ones first.
    #[default]
    Normal,
    /// Good ones first.
    High,
    /// Only good ones.
    Critical,
}

impl Task {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creative => "creative",
            Self::Reasoning => "reasoning",
            Self::General => "general",
        }
    }
}

impl fmt::Display for Criticality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
            Self::Critical => "critical",
        })
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

/// The task that a prompt's words speak of.
pub fn task_of(prompt: &str) -> Task {
    let text = prompt.to_lowercase();
    let hits = |words: &[&str]| words.iter().filter(|word| has_words(&text, word)).count();
    let (creative, reasoning) = (hits(&CREATIVE), hits(&REASONING));
    if creative > reasoning {
        Task::Creative
    } else if reasoning > 0 {
        Task::Reasoning
    } else {
        Task::General
    }
}

/// Whether `text` holds `words` as whole words.
fn has_words(text: &str, words: &str) -> bool {
    let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    text.match_indices(words).any(|(at, _)| {
        boundary(text[..at].chars().next_back()) && boundary(text[at + words.len()..].chars().next())
    })
}

/// The providers to try, best first.
pub fn order(task: Task, criticality: Criticality) -> &'static [ProviderId] {
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
    fn the_task_is_read_from_whole_words() {
        assert_eq!(task_of("Write a haiku about rust"), Task::Creative);
        assert_eq!(task_of("Compare these two and explain why"), Task::Reasoning);
        assert_eq!(task_of("What time is it?"), Task::General);
        assert_eq!(task_of("a tie: a story and an analysis"), Task::Reasoning);
        assert_eq!(task_of("the history of descriptions"), Task::General, "no `story`, no `script`");
        assert_eq!(task_of(""), Task::General);
    }

    #[test]
    fn no_order_names_a_provider_twice() {
        for task in [Task::Creative, Task::Reasoning, Task::General] {
            for criticality in
                [Criticality::Low, Criticality::Normal, Criticality::High, Criticality::Critical]
            {
                let mut seen = order(task, criticality).to_vec();
                let count = seen.len();
                seen.sort();
                seen.dedup();
                assert_eq!(seen.len(), count);
            }
        }
    }

    #[test]
    fn only_good_ones_are_tried_when_it_is_critical() {
        for task in [Task::Creative, Task::Reasoning, Task::General] {
            assert!(
                order(task, Criticality::Critical)
                    .iter()
                    .all(|id| ![Ollama, LocalAi, HuggingFace].contains(id))
            );
        }
    }
}
