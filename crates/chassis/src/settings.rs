//! What the environment says: provider keys, addresses, limits.

use std::{collections::HashMap, sync::Arc};

use crate::StartError;

/// Settings from the environment: provider keys, addresses, limits.
#[derive(Clone, Default)]
pub struct Settings {
    values: Arc<HashMap<String, String>>,
}

impl Settings {
    /// The environment of the process.
    pub fn from_environment() -> Self {
        // What is not UTF-8 is somebody else's and no setting of ours.
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// A setting; an empty one counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A whole number within bounds.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn whole(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, StartError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.trim().parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(StartError::Setting {
                name: name.to_owned(),
                accepted: format!("it is {text:?}; accepted: a whole number from {least} to {most}"),
            }),
        }
    }
}

impl FromIterator<(String, String)> for Settings {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(values: I) -> Self {
        Self { values: Arc::new(values.into_iter().collect()) }
    }
}
