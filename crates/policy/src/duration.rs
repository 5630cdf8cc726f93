//! Durations in a policy: `500ms`, `5s`, `1m30s`, `2h`.
//!
//! The grammar is a subset of Go's, which Kubernetes users know: one or more numbers, each followed by a unit
//! `ms`, `s`, `m` or `h`. A displayed duration parses to the same value.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// CEL rules of a duration field: the grammar as a regular expression, and the bounds.
macro_rules! duration_rule {
    ($min:literal to $max:literal) => {
        serde_json::json!([{
            "rule": concat!(
                "self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('",
                $min, "') && duration(self) <= duration('", $max, "')"
            ),
            "message": concat!(
                "must be a duration from ", $min, " to ", $max, ", such as 500ms, 5s, 1m30s or 2h"
            ),
        }])
    };
}
pub(crate) use duration_rule;

/// Non-negative duration with a resolution of one millisecond.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// Error for a text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration such as 500ms, 5s, 1m30s or 2h")]
pub struct InvalidDuration(pub String);

impl Duration {
    /// Creates a duration from whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(std::time::Duration::from_millis(millis))
    }

    /// Creates a duration from whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(std::time::Duration::from_secs(secs))
    }

    /// Returns the duration as the standard library's type.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }

    /// Returns true for `0s`.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let invalid = || InvalidDuration(text.to_owned());
        let mut rest = text;
        let mut total_ms = 0.0_f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
            let (number, tail) = rest.split_at(digits);
            let well_formed = number.starts_with(|c: char| c.is_ascii_digit())
                && number.ends_with(|c: char| c.is_ascii_digit());
            let number: f64 = number.parse().ok().filter(|_| well_formed).ok_or_else(invalid)?;
            let (scale, unit) = match tail.as_bytes() {
                [b'm', b's', ..] => (1.0, 2),
                [b's', ..] => (1e3, 1),
                [b'm', ..] => (60e3, 1),
                [b'h', ..] => (3_600e3, 1),
                _ => return Err(invalid()),
            };
            total_ms += number * scale;
            rest = &tail[unit..];
        }
        // 100 years exceed every bound of a field; the limit only keeps the conversion below exact.
        if text.is_empty() || total_ms > 3_600e3 * 24.0 * 36_525.0 {
            return Err(invalid());
        }
        Ok(Self::from_millis(total_ms.round() as u64))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if rest >= millis {
                write!(f, "{}{unit}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The length bound lets the API server estimate what the CEL rules cost.
        json_schema!({"type": "string", "maxLength": 32})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_every_unit_and_combinations() {
        for (text, millis) in
            [("0s", 0), ("500ms", 500), ("5s", 5_000), ("1m30s", 90_000), ("2h", 7_200_000), ("1.5s", 1_500)]
        {
            assert_eq!(text.parse(), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn only_0s_is_zero() {
        assert!(Duration::default().is_zero() && !Duration::from_millis(1).is_zero());
    }

    #[test]
    fn accepts_up_to_100_years() {
        assert_eq!("876600h".parse(), Ok(Duration::from_secs(876_600 * 3_600)));
        assert!("876600h1ms".parse::<Duration>().is_err());
    }

    #[test]
    fn debug_uses_the_same_grammar() {
        assert_eq!(format!("{:?}", Duration::from_secs(90)), "1m30s");
    }

    #[test]
    fn the_schema_is_an_inline_bounded_string() {
        let schema = schemars::schema_for!(Duration).to_value();
        assert_eq!((schema["title"].as_str(), schema["type"].as_str()), (Some("Duration"), Some("string")));
        let section = schemars::schema_for!(crate::Cache).to_value();
        assert_eq!(section["properties"]["ttl"]["maxLength"], 32, "inline, not a reference");
    }

    #[test]
    fn rejects_invalid_durations() {
        for text in ["", "5", "s", "5 s", "-5s", "5sec", "1..5s", ".5s", "5.s", "1e3s", "9999999999h", "NaNs"]
        {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn display_round_trips(millis in 0_u64..10_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = text.parse::<Duration>();
        }
    }
}
