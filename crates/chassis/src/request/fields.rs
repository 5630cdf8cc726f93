//! Faults of the fields of a request, for `error.fields` of a response: all of them, not the first one.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

use super::ApiError;

/// Largest number of faults in one response.
pub(super) const MAX_FAULTS: usize = 20;

/// Fault of a field of the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldFault {
    /// Field, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// Fault of its value, such as `is -1` or `is required`.
    pub problem: String,
    /// Accepted values; null if the problem says it.
    pub accepted: Option<String>,
}

impl FieldFault {
    /// Describes the fault of a field. `field` names it like a client does: `items[1].name`.
    pub fn new(field: &str, problem: impl Into<String>, accepted: impl Into<String>) -> Self {
        Self { pointer: pointer(field), problem: problem.into(), accepted: Some(accepted.into()) }
    }

    /// Describes the fault of a field whose problem says what is accepted.
    pub(super) fn without_alternatives(field: &str, problem: impl Into<String>) -> Self {
        Self { pointer: pointer(field), problem: problem.into(), accepted: None }
    }

    /// Returns the field like a client names it; empty for the whole body.
    fn field(&self) -> String {
        let mut field = String::new();
        for part in self.pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
                field = format!("{field}[{part}]");
            } else {
                let dot = if field.is_empty() { "" } else { "." };
                field = format!("{field}{dot}{part}");
            }
        }
        field
    }
}

/// One clause, such as: field `cost` is -1; accepted: 0 to 10.
impl fmt::Display for FieldFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field() {
            field if field.is_empty() => write!(f, "the body {}", self.problem)?,
            field => write!(f, "field `{field}` {}", self.problem)?,
        }
        match &self.accepted {
            Some(accepted) => write!(f, "; accepted: {accepted}"),
            None => Ok(()),
        }
    }
}

/// Returns the JSON pointer of a field such as `items[1].name`; that of the whole body is empty.
fn pointer(field: &str) -> String {
    let mut pointer = String::new();
    for part in field.split(['.', '[']).map(|part| part.trim_end_matches(']')) {
        if !part.is_empty() {
            pointer.push('/');
            pointer.push_str(&part.replace('~', "~0").replace('/', "~1"));
        }
    }
    pointer
}

/// Collects the faults of a body.
///
/// ```
/// # use phase6_chassis::{ApiError, Faults};
/// fn check(name: &str, age: &str) -> Result<(String, u8), ApiError> {
///     let mut faults = Faults::default();
///     let name = faults.check("name", name.parse::<String>());
///     let age = faults.check("age", age.parse::<u8>());
///     faults.all(name.zip(age))
/// }
/// assert!(check("ada", "36").is_ok());
/// assert!(check("ada", "old").unwrap_err().message().starts_with("field `age`"));
/// ```
#[derive(Debug, Default)]
pub struct Faults(Vec<FieldFault>);

impl Faults {
    /// Adds a fault.
    pub fn add(&mut self, fault: FieldFault) {
        self.0.push(fault);
    }

    /// Returns a valid value, or adds its error, whose text names the value and what is accepted:
    /// `"x" is not a name; accepted: ...`.
    pub fn check<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(from_text(field, &error.to_string()))).ok()
    }

    /// Returns the values if there are no faults.
    ///
    /// # Errors
    ///
    /// 400 with the code `invalid_body` and all faults.
    pub fn all<T>(self, values: Option<T>) -> Result<T, ApiError> {
        match values {
            Some(values) if self.0.is_empty() => Ok(values),
            _ => Err(ApiError::invalid_body(self.0)),
        }
    }
}

/// Describes a fault by the text of an error.
pub(super) fn from_text(field: &str, text: &str) -> FieldFault {
    match text.rsplit_once("; accepted: ") {
        Some((problem, accepted)) => FieldFault::new(field, format!("is invalid: {problem}"), accepted),
        None => FieldFault::without_alternatives(field, format!("is invalid: {text}")),
    }
}

/// Returns the sentence about all faults.
pub(super) fn summary(faults: &[FieldFault]) -> String {
    let clauses: Vec<String> = faults.iter().map(ToString::to_string).collect();
    match clauses.as_slice() {
        [] => "the body is invalid".to_owned(),
        [only] => only.clone(),
        all => format!("{} fields are invalid: {}", all.len(), all.join(". ")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_field_has_a_pointer_and_is_named_like_a_client_names_it() {
        for (field, expected) in [
            ("cost", "/cost"),
            ("items[1].name", "/items/1/name"),
            ("a/b", "/a~1b"),
            ("a~b", "/a~0b"),
            ("", ""),
        ] {
            let fault = FieldFault::new(field, "is 7", "8");
            assert_eq!((fault.pointer.as_str(), fault.field().as_str()), (expected, field));
        }
    }

    #[test]
    fn all_faults_are_in_the_message() {
        let mut faults = Faults::default();
        faults.add(FieldFault::new("a", "is 1", "2"));
        faults.check::<(), _>("b", Err("\"x\" is not a name; accepted: letters"));
        let error = faults.all(Some(())).unwrap_err();
        assert_eq!(
            error.message(),
            "2 fields are invalid: field `a` is 1; accepted: 2. field `b` is invalid: \"x\" is not a name; accepted: letters"
        );
    }

    proptest! {
        #[test]
        fn any_field_can_be_described(field in ".{0,40}") {
            let fault = FieldFault::new(&field, "is 1", "2");
            prop_assert!(fault.pointer.is_empty() || fault.pointer.starts_with('/'));
            let _ = fault.to_string();
        }
    }
}
