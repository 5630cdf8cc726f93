//! Faults of a JSON body in the words of its sender: field, value, and what is accepted. Serde describes them in
//! terms of Rust: `invalid type: integer`, `expected i64`.
//!
//! Serde ends at the first fault. [`all`] repairs the value at fault and tries again, so that a client learns of
//! all faults at once.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{FieldFault, fields};

/// Longest part of a value in a message, in characters.
const MAX_SHOWN: usize = 80;

/// Describes a fault of a value at `path`, which is `.` for the whole body; `fault` is the text of serde without
/// the position. A text of another form is passed on: it comes from our own types, and names what is accepted.
pub(super) fn describe(path: &str, fault: &str) -> FieldFault {
    let path = if path == "." { "" } else { path };
    let subject = shortened(path);
    if let Some(name) = fault.strip_prefix("missing field `") {
        let parent = if path.is_empty() { String::new() } else { format!("{subject}.") };
        let field = format!("{parent}{}", name.trim_end_matches('`'));
        return FieldFault::without_alternatives(&field, "is required");
    }
    if let Some((name, rest)) = quoted(fault, "unknown field `") {
        let field = if path.ends_with(name) { path } else { name };
        return FieldFault::new(&shortened(field), "is unknown", alternatives(rest));
    }
    if let Some(name) = fault.strip_prefix("duplicate field `") {
        return FieldFault::new(&shortened(name.trim_end_matches('`')), "occurs twice", "one value");
    }
    if let Some((name, rest)) = quoted(fault, "unknown variant `") {
        let value = shortened(&format!("{name:?}"));
        return FieldFault::new(&subject, format!("is {value}"), alternatives(rest));
    }
    // For a value of another type only the type is named: the bounds of the Rust type are wider than those of the field.
    let of_type = fault.strip_prefix("invalid type: ").map(|text| (text, false));
    let of_range = fault.strip_prefix("invalid value: ").map(|text| (text, true));
    if let Some((text, bounds)) = of_type.or(of_range)
        && let Some((value, expected)) = text.rsplit_once(", expected ")
    {
        return FieldFault::new(&subject, format!("is {}", shortened(&shown(value))), kind(expected, bounds));
    }
    fields::from_text(&subject, fault)
}

/// Returns the name after `prefix`, and what is accepted. The name comes from the client, and may itself contain
/// back-quotes and the words of a fault.
fn quoted<'a>(text: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let text = text.strip_prefix(prefix)?;
    text.rsplit_once("`, expected ").or_else(|| text.rsplit_once("`, "))
}

/// Returns the alternatives of `one of ...`.
fn alternatives(text: &str) -> String {
    let text = text.trim_start_matches("one of ");
    if text == "there are no fields" { "no fields".into() } else { text.replace(" or ", ", ") }
}

/// Returns a value without its Rust type: `integer` and a number in back-quotes become the number.
fn shown(value: &str) -> String {
    match value {
        "sequence" => "a list".into(),
        "map" => "an object".into(),
        _ => {
            let value = value.strip_prefix("string ").unwrap_or(value);
            value.split_once('`').map_or(value, |(_, inner)| inner.trim_end_matches('`')).to_owned()
        }
    }
}

fn shortened(value: &str) -> String {
    match value.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &value[..end]),
        None => value.to_owned(),
    }
}

/// Describes a type of Rust, with its bounds if `bounds`.
fn kind(expected: &str, bounds: bool) -> String {
    let text = match expected {
        "u8" if bounds => "an integer from 0 to 255",
        "u16" if bounds => "an integer from 0 to 65535",
        "u32" if bounds => "an integer from 0 to 4294967295",
        "u64" | "u128" | "usize" if bounds => "an integer from 0",
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" | "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => {
            "an integer"
        }
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        _ if expected.starts_with("struct ") => "an object",
        other => other,
    };
    text.to_owned()
}

/// Values by which a value at fault is replaced, so that the following fault is found.
const REPAIRS: [fn() -> Value; 6] =
    [|| Value::Null, || json!(""), || json!(1), || json!(false), || json!([]), || json!({})];

/// Returns all faults of a body that is JSON, in the order in which they are found.
pub(super) fn all<T: DeserializeOwned>(mut body: Value) -> Vec<FieldFault> {
    let mut faults: Vec<FieldFault> = Vec::new();
    let mut repairs = 0;
    while let Err(error) = serde_path_to_error::deserialize::<_, T>(&body) {
        let fault = describe(&error.path().to_string(), &error.inner().to_string());
        // The same value again: the last repair was not accepted either.
        let is_repeated = faults.last().is_some_and(|last| last.pointer == fault.pointer);
        repairs = if is_repeated { repairs + 1 } else { 0 };
        let pointer = fault.pointer.clone();
        let is_unknown = fault.problem == "is unknown";
        if !is_repeated {
            if faults.len() == fields::MAX_FAULTS || faults.iter().any(|known| known.pointer == pointer) {
                break;
            }
            faults.push(fault);
        }
        let Some(repair) = REPAIRS.get(repairs) else { break };
        if !replace(&mut body, &pointer, (!is_unknown).then(repair)) {
            break;
        }
    }
    faults
}

/// Replaces the value at a pointer, or removes it. Returns false if nothing is there.
fn replace(body: &mut Value, pointer: &str, value: Option<Value>) -> bool {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return false };
    let name = name.replace("~1", "/").replace("~0", "~");
    match (body.pointer_mut(parent), value) {
        (Some(Value::Object(fields)), Some(value)) => {
            fields.insert(name, value);
            true
        }
        (Some(Value::Object(fields)), None) => fields.remove(&name).is_some(),
        (Some(Value::Array(items)), Some(value)) => {
            let item = name.parse().ok().and_then(|index: usize| items.get_mut(index));
            item.map(|item| *item = value).is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_field_the_value_and_what_is_accepted() {
        for (path, fault, expected) in [
            (".", "missing field `cost`", "field `cost` is required"),
            ("items[1]", "missing field `name`", "field `items[1].name` is required"),
            (
                "items[0].color",
                "unknown field `color`, expected one of `name`, `size`, `kind`",
                "field `items[0].color` is unknown; accepted: `name`, `size`, `kind`",
            ),
            (".", "unknown field `a`, expected `b` or `c`", "field `a` is unknown; accepted: `b`, `c`"),
            (".", "unknown field `a`, there are no fields", "field `a` is unknown; accepted: no fields"),
            ("kind", "unknown variant `x`, expected `y`", "field `kind` is \"x\"; accepted: `y`"),
            (
                "cost",
                "invalid type: string \"x\", expected i64",
                "field `cost` is \"x\"; accepted: an integer",
            ),
            ("name", "invalid type: integer `7`, expected a string", "field `name` is 7; accepted: a string"),
            ("name", "invalid type: null, expected a string", "field `name` is null; accepted: a string"),
            (
                "age",
                "invalid value: integer `-1`, expected u8",
                "field `age` is -1; accepted: an integer from 0 to 255",
            ),
            ("age", "invalid type: string \"3\", expected u8", "field `age` is \"3\"; accepted: an integer"),
            (
                "on",
                "invalid type: map, expected a boolean",
                "field `on` is an object; accepted: true or false",
            ),
            (
                "item",
                "invalid type: sequence, expected struct Item",
                "field `item` is a list; accepted: an object",
            ),
            (
                "cost",
                "-1 is not an amount; accepted: dollars",
                "field `cost` is invalid: -1 is not an amount; accepted: dollars",
            ),
            ("a", "duplicate field `a`", "field `a` occurs twice; accepted: one value"),
        ] {
            assert_eq!(describe(path, fault).to_string(), expected);
        }
    }

    #[test]
    fn names_from_a_client_are_quoted_whole_or_shortened() {
        let fault = "unknown field `a`, expected `b`, expected `cost`";
        assert_eq!(describe(".", fault).to_string(), "field `a`, expected `b` is unknown; accepted: `cost`");
        let long = "x".repeat(100_000);
        for (path, fault) in [
            (long.as_str(), format!("unknown field `{long}`, expected `cost`")),
            (".", format!("unknown field `{long}`, there are no fields")),
            ("kind", format!("unknown variant `{long}`, expected `cost`")),
            (long.as_str(), "missing field `cost`".to_owned()),
            (long.as_str(), "invalid type: null, expected u8".to_owned()),
        ] {
            let text = describe(path, &fault).to_string();
            assert!(text.len() < 200, "{} bytes", text.len());
        }
    }

    #[test]
    fn a_long_value_is_shortened() {
        let fault = format!("invalid type: string {:?}, expected i64", "\u{e9}, expected ".repeat(1000));
        let text = describe("cost", &fault).to_string();
        assert!(text.len() < 200 && text.ends_with("...; accepted: an integer"), "{text}");
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Body {
        name: String,
        age: u8,
        kind: Kind,
        items: Vec<Item>,
        note: Option<String>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Big,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only parsed")]
    struct Item {
        cost: f64,
    }

    fn pointers(body: Value) -> Vec<String> {
        all::<Body>(body).into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn all_faults_are_found_at_once() {
        let valid = json!({"name": "x", "age": 1, "kind": "big", "items": [{"cost": 1}]});
        assert_eq!(pointers(valid), [""; 0]);
        let body =
            json!({"name": 7, "age": -1, "items": [{"cost": "x"}, {"cost": 1, "size": 2}], "other": 1});
        let mut found = pointers(body);
        found.sort_unstable();
        assert_eq!(found, ["/age", "/items/0/cost", "/items/1/size", "/kind", "/name", "/other"]);
        assert_eq!(
            pointers(json!({})),
            ["/name", "/age", "/kind"],
            "the search ends where no repair is accepted"
        );
    }

    proptest::proptest! {
        #[test]
        fn the_search_ends_for_any_body(
            name in proptest::option::of(-9..9_i64), fields in proptest::collection::vec(".{0,5}", 0..40)
        ) {
            let mut body = json!({"name": name});
            for field in fields {
                body[field] = json!([{"cost": {}}]);
            }
            let faults = all::<Body>(body);
            proptest::prop_assert!(!faults.is_empty() && faults.len() <= fields::MAX_FAULTS);
        }
    }
}
