//! What OpenTelemetry's environment variables say about sending.

use std::env::VarError;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

/// What goes with every message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    /// Who sends, above all. Never shown: they are marked as secrets.
    pub(crate) headers: HeaderMap,
    /// Bodies are compressed.
    pub(crate) gzip: bool,
}

impl Extras {
    /// `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_EXPORTER_OTLP_COMPRESSION`, or their kin for traces alone, which
    /// go first.
    pub(crate) fn from_environment() -> Result<Self, String> {
        Self::read(|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(format!("{name} is not UTF-8")),
        })
    }

    fn read(variable: impl Fn(&str) -> Result<Option<String>, String>) -> Result<Self, String> {
        let either = |end: &str| -> Result<_, String> {
            for name in [format!("OTEL_EXPORTER_OTLP_TRACES_{end}"), format!("OTEL_EXPORTER_OTLP_{end}")] {
                if let Some(value) = variable(&name)?.filter(|value| !value.trim().is_empty()) {
                    return Ok(Some((name, value)));
                }
            }
            Ok(None)
        };
        let headers = match either("HEADERS")? {
            Some((name, value)) => headers(&value).map_err(|fault| format!("{name}: {fault}"))?,
            None => HeaderMap::new(),
        };
        let gzip = match either("COMPRESSION")? {
            Some((name, value)) => gzip(&value).map_err(|fault| format!("{name}: {fault}"))?,
            None => false,
        };
        Ok(Self { headers, gzip })
    }
}

/// `NAME=VALUE` between commas, values with `%` for what they may not hold. No fault repeats a value.
fn headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (i, entry) in text.split(',').map(str::trim).enumerate().filter(|(_, entry)| !entry.is_empty()) {
        let (name, value) = header(entry).ok_or_else(|| {
            format!("entry {} is not usable; accepted: NAME=VALUE, and commas between entries", i + 1)
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn header(entry: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = entry.split_once('=')?;
    let decoded: Vec<u8> = percent_decode_str(value.trim()).collect();
    let mut value = HeaderValue::from_bytes(&decoded).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}

fn gzip(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "gzip" => Ok(true),
        "none" => Ok(false),
        _ => Err(format!("{text:?} is not usable; accepted: gzip, none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Extras, String> {
        Extras::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        })
    }

    #[test]
    fn headers_are_pairs_between_commas_with_percent_for_what_values_may_not_hold() {
        let text = " authorization = Bearer%20geheim%2C1 ,x-tenant=a=b,, x-tenant=c,";
        let extras = read(&[("OTEL_EXPORTER_OTLP_HEADERS", text)]).unwrap();
        assert_eq!(extras.headers["authorization"], "Bearer geheim,1");
        let tenants: Vec<_> = extras.headers.get_all("x-tenant").iter().collect();
        assert_eq!(tenants, ["a=b", "c"]);
        assert!(!format!("{extras:?}").contains("geheim"));
    }

    #[test]
    fn what_is_said_of_traces_goes_before_what_is_said_of_all_and_empty_says_nothing() {
        let extras = read(&[
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "b=2"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", ""),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP"),
        ]);
        let extras = extras.unwrap();
        assert!(extras.headers.contains_key("a") && !extras.headers.contains_key("b"));
        assert!(extras.gzip);
        assert!(!read(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "none")]).unwrap().gzip);
    }

    #[test]
    fn a_fault_names_the_variable_and_the_entry_and_never_a_value() {
        for text in ["a=1,geheim", "a=1,geheim geheim=1", "a=1,b=geheim%0A"] {
            let told = read(&[("OTEL_EXPORTER_OTLP_HEADERS", text)]).unwrap_err();
            assert!(told.starts_with("OTEL_EXPORTER_OTLP_HEADERS: entry 2 is not usable"), "{told}");
            assert!(told.contains("accepted: NAME=VALUE") && !told.contains("geheim"), "{told}");
        }
        let told = read(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")]).unwrap_err();
        assert_eq!(told, "OTEL_EXPORTER_OTLP_COMPRESSION: \"zstd\" is not usable; accepted: gzip, none");
    }
}
