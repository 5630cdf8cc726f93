//! Faults of a JSON body in the words of its sender: field, value, and what is accepted. Serde describes them in
//! terms of Rust: `invalid type: integer`, `expected i64`.

/// Longest part of a value in a message, in characters.
const MAX_SHOWN: usize = 80;

/// Describes a fault of a value at `path`, which is `.` for the whole body; `fault` is the text of serde without
/// the position. A text of another form is passed on: it comes from our own types, and names what is accepted.
pub(super) fn describe(path: &str, fault: &str) -> String {
    let subject = if path == "." { "the body".to_owned() } else { format!("field `{}`", shortened(path)) };
    if let Some(name) = fault.strip_prefix("missing field `") {
        let parent = if path == "." { String::new() } else { format!("{}.", shortened(path)) };
        return format!("field `{parent}{name} is required");
    }
    if let Some((name, rest)) = quoted(fault, "unknown field `") {
        let field = if path.ends_with(name) { path } else { name };
        return format!("field `{}` is unknown; accepted: {}", shortened(field), alternatives(rest));
    }
    if let Some(name) = fault.strip_prefix("duplicate field `") {
        return format!("field `{name} occurs twice; accepted: one value");
    }
    if let Some((name, rest)) = quoted(fault, "unknown variant `") {
        return format!("{subject} is {}; accepted: {}", shortened(&format!("{name:?}")), alternatives(rest));
    }
    // For a value of another type only the type is named: the bounds of the Rust type are wider than those of the field.
    let of_type = fault.strip_prefix("invalid type: ").map(|text| (text, false));
    let of_range = fault.strip_prefix("invalid value: ").map(|text| (text, true));
    if let Some((text, bounds)) = of_type.or(of_range)
        && let Some((value, expected)) = text.rsplit_once(", expected ")
    {
        return format!("{subject} is {}; accepted: {}", shortened(&shown(value)), kind(expected, bounds));
    }
    if path == "." { fault.to_owned() } else { format!("{subject}: {fault}") }
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
                "field `cost`: -1 is not an amount; accepted: dollars",
            ),
            ("a", "duplicate field `a`", "field `a` occurs twice; accepted: one value"),
        ] {
            assert_eq!(describe(path, fault), expected);
        }
    }

    #[test]
    fn names_from_a_client_are_quoted_whole_or_shortened() {
        let fault = "unknown field `a`, expected `b`, expected `cost`";
        assert_eq!(describe(".", fault), "field `a`, expected `b` is unknown; accepted: `cost`");
        let long = "x".repeat(100_000);
        for (path, fault) in [
            (long.as_str(), format!("unknown field `{long}`, expected `cost`")),
            (".", format!("unknown field `{long}`, there are no fields")),
            ("kind", format!("unknown variant `{long}`, expected `cost`")),
            (long.as_str(), "missing field `cost`".to_owned()),
            (long.as_str(), "invalid type: null, expected u8".to_owned()),
        ] {
            let text = describe(path, &fault);
            assert!(text.len() < 200, "{} bytes", text.len());
        }
    }

    #[test]
    fn a_long_value_is_shortened() {
        let fault = format!("invalid type: string {:?}, expected i64", "\u{e9}, expected ".repeat(1000));
        let text = describe("cost", &fault);
        assert!(text.len() < 200 && text.ends_with("...; accepted: an integer"), "{text}");
    }
}
