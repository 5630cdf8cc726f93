//! Differences between two policies, field by field.

use std::fmt;

use phase6_policy::Policy;
use serde_json::Value;

/// One setting that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Path below `spec`, as in `rateLimit.capacity`.
    pub field: String,
    /// Old value; `None` if it was unset.
    pub from: Option<Value>,
    /// New value; `None` if it is unset.
    pub to: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<Value>| match value {
            None => "unset".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        write!(f, "{} {} -> {}", self.field, show(&self.from), show(&self.to))
    }
}

/// Returns every setting that differs, in the order of their names.
pub fn differences(from: &Policy, to: &Policy) -> Vec<Difference> {
    let as_value = |policy| serde_json::to_value(policy).expect("a policy is plain data");
    let mut out = Vec::new();
    walk("", Some(&as_value(from)), Some(&as_value(to)), &mut out);
    out
}

fn walk(path: &str, from: Option<&Value>, to: Option<&Value>, out: &mut Vec<Difference>) {
    if from == to {
        return;
    }
    if let (Some(Value::Object(a)), Some(Value::Object(b))) = (from, to) {
        let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            walk(&below, a.get(name), b.get(name), out);
        }
    } else {
        out.push(Difference { field: path.to_owned(), from: from.cloned(), to: to.cloned() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(value: Value) -> Policy {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_difference_shows_field_and_both_values() {
        let from = policy(json!({
            "rateLimit": {"capacity": 100, "refillPerSecond": 10},
            "tracing": {"samplingRate": 0.1},
        }));
        let to = policy(json!({
            "rateLimit": {"capacity": 50, "refillPerSecond": 10},
            "tracing": {"samplingRate": 0.5},
        }));
        let text: Vec<_> = differences(&from, &to).iter().map(ToString::to_string).collect();
        assert_eq!(text, ["rateLimit.capacity 100 -> 50", "tracing.samplingRate 0.1 -> 0.5"]);
        assert_eq!(differences(&to, &to), []);
    }

    #[test]
    fn adding_or_removing_a_section_is_one_difference() {
        let with = policy(json!({"cache": {"ttl": "5s"}}));
        let without = policy(json!({}));
        let removed = differences(&with, &without);
        assert_eq!(removed.len(), 1);
        assert!(removed[0].to_string().starts_with("cache {"), "{}", removed[0]);
        assert!(removed[0].to_string().ends_with("-> unset"), "{}", removed[0]);
    }
}
