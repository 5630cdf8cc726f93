//! Refusal of a value that a caller supplied.

use std::fmt::Display;

/// A field of a request whose value is outside of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` is {value}; accepted: {accepted}")]
pub struct InvalidValue {
    /// Path of the field as callers know it, such as `workflows[0].expectedGain`.
    pub field: String,
    /// The refused value, or a description of it.
    pub value: String,
    /// The accepted values.
    pub accepted: String,
}

impl InvalidValue {
    /// Creates the refusal of `value` for `field`.
    pub fn new(field: impl Into<String>, value: impl Display, accepted: impl Into<String>) -> Self {
        Self { field: field.into(), value: value.to_string(), accepted: accepted.into() }
    }
}
