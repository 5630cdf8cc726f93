//! Prompts and the tokens that they use.

use super::InvalidValue;

/// Largest prompt, in bytes, including its system prompt.
pub const MAX_PROMPT_BYTES: usize = 200_000;
/// Largest accepted limit on output tokens.
pub const MAX_OUTPUT_TOKENS: u32 = 8192;

/// A prompt for a model.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// User message.
    pub text: String,
    /// System prompt.
    pub system: Option<String>,
    /// Maximum number of output tokens.
    pub max_tokens: u32,
}

/// Tokens that a call used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input tokens.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
}

impl Prompt {
    /// Creates a prompt.
    ///
    /// # Errors
    ///
    /// The prompt is blank or too large, or `max_tokens` is outside of 1 to 8192.
    pub fn new(text: String, system: Option<String>, max_tokens: u32) -> Result<Self, InvalidValue> {
        if text.trim().is_empty() {
            return Err(InvalidValue::new("prompt", "empty", "a text that is not blank"));
        }
        let prompt = Self { text, system, max_tokens };
        if prompt.bytes() > MAX_PROMPT_BYTES {
            let size = format!("{} bytes with its system prompt", prompt.bytes());
            return Err(InvalidValue::new("prompt", size, format!("at most {MAX_PROMPT_BYTES} bytes")));
        }
        if !(1..=MAX_OUTPUT_TOKENS).contains(&max_tokens) {
            let accepted = format!("a whole number from 1 to {MAX_OUTPUT_TOKENS}");
            return Err(InvalidValue::new("maxTokens", max_tokens, accepted));
        }
        Ok(prompt)
    }

    /// Size of the prompt with its system prompt, in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.system.as_ref().map_or(0, String::len)
    }
}

impl Usage {
    /// Merges two reports about one call: each count is the larger of the two. Providers report
    /// input tokens at the beginning of a stream and output tokens at its end.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self { input: self.input.max(other.input), output: self.output.max(other.output) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_blank_and_oversized_prompts() {
        let field = |text: &str, system: Option<&str>, max_tokens| {
            Prompt::new(text.into(), system.map(Into::into), max_tokens).map_err(|error| error.field)
        };
        assert_eq!(field(" \n", None, 1).unwrap_err(), "prompt");
        assert_eq!(field("x", Some(&"y".repeat(MAX_PROMPT_BYTES)), 1).unwrap_err(), "prompt");
        assert_eq!(field("x", None, 0).unwrap_err(), "maxTokens");
        assert_eq!(field("x", None, MAX_OUTPUT_TOKENS + 1).unwrap_err(), "maxTokens");
        assert!(field(&"x".repeat(MAX_PROMPT_BYTES), None, MAX_OUTPUT_TOKENS).is_ok());
    }
}
