//! Names of providers, tasks and levels of criticality in JSON.
//!
//! The types mirror those of the model, which has no JSON form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model;

/// AI provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = ProviderId)]
pub(super) enum Provider {
    OpenAi,
    DeepSeek,
    #[serde(alias = "claude")]
    Anthropic,
    Gemini,
    HuggingFace,
    Ollama,
    LocalAi,
}

/// Kind of answer that a prompt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Task {
    /// Imaginative writing.
    Creative,
    /// An explanation or a judgment.
    Reasoning,
    /// Anything else.
    General,
}

/// Weight of quality against price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Criticality {
    /// Prefers free providers.
    Low,
    /// Prefers inexpensive providers.
    Normal,
    /// Prefers providers of high quality.
    High,
    /// Uses only providers of high quality.
    Critical,
}

/// Returns the values of every provider by its name.
pub(super) fn by_name<T>(value: impl Fn(model::ProviderId) -> T) -> BTreeMap<&'static str, T> {
    model::ProviderId::ALL.into_iter().map(|id| (id.as_str(), value(id))).collect()
}

impl From<model::ProviderId> for Provider {
    fn from(id: model::ProviderId) -> Self {
        match id {
            model::ProviderId::OpenAi => Self::OpenAi,
            model::ProviderId::DeepSeek => Self::DeepSeek,
            model::ProviderId::Anthropic => Self::Anthropic,
            model::ProviderId::Gemini => Self::Gemini,
            model::ProviderId::HuggingFace => Self::HuggingFace,
            model::ProviderId::Ollama => Self::Ollama,
            model::ProviderId::LocalAi => Self::LocalAi,
        }
    }
}

impl From<Provider> for model::ProviderId {
    fn from(provider: Provider) -> Self {
        match provider {
            Provider::OpenAi => Self::OpenAi,
            Provider::DeepSeek => Self::DeepSeek,
            Provider::Anthropic => Self::Anthropic,
            Provider::Gemini => Self::Gemini,
            Provider::HuggingFace => Self::HuggingFace,
            Provider::Ollama => Self::Ollama,
            Provider::LocalAi => Self::LocalAi,
        }
    }
}

impl From<model::Task> for Task {
    fn from(task: model::Task) -> Self {
        match task {
            model::Task::Creative => Self::Creative,
            model::Task::Reasoning => Self::Reasoning,
            model::Task::General => Self::General,
        }
    }
}

impl From<model::Criticality> for Criticality {
    fn from(criticality: model::Criticality) -> Self {
        match criticality {
            model::Criticality::Low => Self::Low,
            model::Criticality::Normal => Self::Normal,
            model::Criticality::High => Self::High,
            model::Criticality::Critical => Self::Critical,
        }
    }
}

impl From<Criticality> for model::Criticality {
    fn from(criticality: Criticality) -> Self {
        match criticality {
            Criticality::Low => Self::Low,
            Criticality::Normal => Self::Normal,
            Criticality::High => Self::High,
            Criticality::Critical => Self::Critical,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_are_those_of_the_model() {
        for id in model::ProviderId::ALL {
            let name = serde_json::to_value(Provider::from(id)).unwrap();
            assert_eq!(name, id.as_str());
            let parsed: Provider = serde_json::from_value(name).unwrap();
            assert_eq!(model::ProviderId::from(parsed), id);
        }
        for task in [model::Task::Creative, model::Task::Reasoning, model::Task::General] {
            assert_eq!(serde_json::to_value(Task::from(task)).unwrap(), task.as_str());
        }
        for criticality in [
            model::Criticality::Low,
            model::Criticality::Normal,
            model::Criticality::High,
            model::Criticality::Critical,
        ] {
            let name = serde_json::to_value(Criticality::from(criticality)).unwrap();
            assert_eq!(name, criticality.as_str());
            let parsed: Criticality = serde_json::from_value(name).unwrap();
            assert_eq!(model::Criticality::from(parsed), criticality);
        }
    }

    #[test]
    fn claude_is_another_name_of_anthropic() {
        assert_eq!(serde_json::from_str::<Provider>("\"claude\"").unwrap(), Provider::Anthropic);
    }
}
