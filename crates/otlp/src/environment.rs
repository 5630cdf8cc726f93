//! OpenTelemetry's environment variables for exporting.

use std::env::VarError;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

/// Options that apply to every message.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExportOptions {
    /// Headers to send, usually for authentication. Marked as sensitive, so that they are never logged.
    pub(crate) headers: HeaderMap,
    /// True if messages are compressed with gzip.
    pub(crate) gzip: bool,
}

/// An environment variable that cannot be used. Header values are never part of the text: they are secrets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// The variable is not UTF-8.
    #[error("{variable} is not UTF-8")]
    NotUtf8 {
        /// Name of the variable.
        variable: String,
    },
    /// An entry of the list of headers cannot be parsed.
    #[error("{variable}: entry {entry} is malformed; accepted: NAME=VALUE entries separated by commas")]
    Header {
        /// Name of the variable.
        variable: String,
        /// Number of the entry, from 1.
        entry: usize,
    },
    /// The compression is not supported.
    #[error("{variable}: unsupported compression {value:?}; accepted: gzip, none")]
    Compression {
        /// Name of the variable.
        variable: String,
        /// Value of the variable.
        value: String,
    },
}

/// A variable that is set and not blank.
struct Variable {
    name: String,
    value: String,
}

impl ExportOptions {
    /// Reads `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_EXPORTER_OTLP_COMPRESSION`, or their
    /// `OTEL_EXPORTER_OTLP_TRACES_` variants, which take precedence.
    pub(crate) fn from_environment() -> Result<Self, EnvironmentError> {
        Self::from_variables(|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(EnvironmentError::NotUtf8 { variable: name.to_owned() }),
        })
    }

    fn from_variables(
        read: impl Fn(&str) -> Result<Option<String>, EnvironmentError>,
    ) -> Result<Self, EnvironmentError> {
        let first_set = |suffix: &str| -> Result<_, EnvironmentError> {
            for name in
                [format!("OTEL_EXPORTER_OTLP_TRACES_{suffix}"), format!("OTEL_EXPORTER_OTLP_{suffix}")]
            {
                if let Some(value) = read(&name)?.filter(|value| !value.trim().is_empty()) {
                    return Ok(Some(Variable { name, value }));
                }
            }
            Ok(None)
        };
        let headers = first_set("HEADERS")?.map_or_else(|| Ok(HeaderMap::new()), parse_headers)?;
        let gzip = first_set("COMPRESSION")?.map_or(Ok(false), parse_compression)?;
        Ok(Self { headers, gzip })
    }
}

/// Parses `NAME=VALUE` entries separated by commas, with percent-encoded values.
fn parse_headers(variable: Variable) -> Result<HeaderMap, EnvironmentError> {
    let mut headers = HeaderMap::new();
    let entries = variable.value.split(',').map(str::trim).enumerate();
    for (index, entry) in entries.filter(|(_, entry)| !entry.is_empty()) {
        let Some((name, value)) = parse_header(entry) else {
            return Err(EnvironmentError::Header { variable: variable.name, entry: index + 1 });
        };
        headers.append(name, value);
    }
    Ok(headers)
}

fn parse_header(entry: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = entry.split_once('=')?;
    let decoded: Vec<u8> = percent_decode_str(value.trim()).collect();
    let mut value = HeaderValue::from_bytes(&decoded).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}

/// Returns true for gzip.
fn parse_compression(variable: Variable) -> Result<bool, EnvironmentError> {
    match variable.value.trim().to_ascii_lowercase().as_str() {
        "gzip" => Ok(true),
        "none" => Ok(false),
        _ => Err(EnvironmentError::Compression { variable: variable.name, value: variable.value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<ExportOptions, EnvironmentError> {
        ExportOptions::from_variables(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        })
    }

    #[test]
    fn headers_are_comma_separated_and_percent_encoded() {
        let text = " authorization = Bearer%20geheim%2C1 ,x-tenant=a=b,, x-tenant=c,";
        let options = read(&[("OTEL_EXPORTER_OTLP_HEADERS", text)]).unwrap();
        assert_eq!(options.headers["authorization"], "Bearer geheim,1");
        let tenants: Vec<_> = options.headers.get_all("x-tenant").iter().collect();
        assert_eq!(tenants, ["a=b", "c"]);
        assert!(!format!("{options:?}").contains("geheim"));
    }

    #[test]
    fn variables_for_traces_take_precedence_and_blank_ones_count_as_unset() {
        let options = read(&[
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=1"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "b=2"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", ""),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP"),
        ]);
        let options = options.unwrap();
        assert!(options.headers.contains_key("a") && !options.headers.contains_key("b"));
        assert!(options.gzip);
        assert!(!read(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "none")]).unwrap().gzip);
    }

    #[test]
    fn errors_name_the_variable_and_the_entry_but_never_a_header_value() {
        for text in ["a=1,geheim", "a=1,geheim geheim=1", "a=1,b=geheim%0A"] {
            let error = read(&[("OTEL_EXPORTER_OTLP_HEADERS", text)]).unwrap_err().to_string();
            assert!(error.starts_with("OTEL_EXPORTER_OTLP_HEADERS: entry 2 is malformed"), "{error}");
            assert!(error.contains("accepted: NAME=VALUE") && !error.contains("geheim"), "{error}");
        }
        let error = read(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")]).unwrap_err().to_string();
        assert_eq!(
            error,
            "OTEL_EXPORTER_OTLP_COMPRESSION: unsupported compression \"zstd\"; accepted: gzip, none"
        );
    }
}
