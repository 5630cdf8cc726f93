//! Declaration of a setting: name, type, bounds, default and documentation.

use std::fmt;

/// A setting of a service, read from the environment variable of its name.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name of the environment variable.
    pub name: &'static str,
    /// Type, bounds and default.
    pub kind: SettingKind,
    /// Meaning, in one sentence.
    pub about: &'static str,
}

/// Type of a setting, with its bounds (both included) and its default.
#[derive(Clone, Copy, Debug)]
pub enum SettingKind {
    /// Whole number.
    Integer {
        /// Smallest accepted value.
        min: u64,
        /// Largest accepted value.
        max: u64,
        /// Value if the variable is absent.
        default: u64,
    },
    /// Whole number of a unit of time.
    Duration {
        /// Unit of all three values.
        unit: TimeUnit,
        /// Shortest accepted value.
        min: u64,
        /// Longest accepted value.
        max: u64,
        /// Value if the variable is absent.
        default: u64,
    },
    /// Decimal number.
    Decimal {
        /// Unit in the plural, such as `dollars`.
        unit: &'static str,
        /// Smallest accepted value.
        min: f64,
        /// Largest accepted value.
        max: f64,
        /// Value if the variable is absent.
        default: f64,
    },
    /// `true` or `false`, in any case.
    Boolean {
        /// Value if the variable is absent.
        default: bool,
    },
    /// Any text.
    Text {
        /// Value if the variable is absent.
        default: Option<&'static str>,
    },
    /// URL with the scheme `http` or `https`. Its user name and password are never shown.
    Url {
        /// Value if the variable is absent.
        default: Option<&'static str>,
        /// Check of everything but the scheme, by the library that uses the URL.
        is_valid: fn(&str) -> bool,
    },
    /// Key, token or password: visible ASCII characters, as a header may carry them. Never shown.
    Secret {
        /// Smallest accepted number of characters.
        min_length: usize,
    },
}

/// Unit of a setting that is a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// 1/1000 s.
    Milliseconds,
    /// 1 s.
    Seconds,
}

impl Setting {
    /// Default as it would be written in the environment; `None` if the setting has none.
    pub fn default_text(&self) -> Option<String> {
        match self.kind {
            SettingKind::Integer { default, .. } | SettingKind::Duration { default, .. } => {
                Some(default.to_string())
            }
            SettingKind::Decimal { default, .. } => Some(default.to_string()),
            SettingKind::Boolean { default } => Some(default.to_string()),
            SettingKind::Text { default } | SettingKind::Url { default, .. } => default.map(str::to_owned),
            SettingKind::Secret { .. } => None,
        }
    }
}

impl SettingKind {
    /// True if `text` is a value of this type within its bounds.
    pub(super) fn accepts(&self, text: &str) -> bool {
        match *self {
            Self::Integer { min, max, .. } | Self::Duration { min, max, .. } => {
                parse_integer(text).is_some_and(|number| (min..=max).contains(&number))
            }
            Self::Decimal { min, max, .. } => {
                parse_decimal(text).is_some_and(|number| (min..=max).contains(&number))
            }
            Self::Boolean { .. } => parse_boolean(text).is_some(),
            Self::Text { .. } => true,
            Self::Url { is_valid, .. } => {
                let url = text.trim();
                ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) && is_valid(url)
            }
            Self::Secret { min_length } => {
                let secret = text.trim();
                secret.len() >= min_length && secret.bytes().all(|byte| byte.is_ascii_graphic())
            }
        }
    }

    /// Returns `value` as an error message may show it; `None` for secrets.
    pub(super) fn shown(&self, value: &str) -> Option<String> {
        match self {
            Self::Secret { .. } => None,
            Self::Url { .. } => Some(without_credentials(value.trim())),
            _ => Some(value.to_owned()),
        }
    }
}

/// Describes the type and its bounds, for help texts.
impl fmt::Display for SettingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer { min, max, .. } => write!(f, "whole number from {min} to {max}"),
            Self::Duration { unit, min, max, .. } => {
                write!(f, "whole number of {unit} from {min} to {max}")
            }
            Self::Decimal { unit, min, max, .. } => write!(f, "number of {unit} from {min} to {max}"),
            Self::Boolean { .. } => f.write_str("true or false"),
            Self::Text { .. } => f.write_str("text"),
            Self::Url { .. } => f.write_str("URL that begins with http:// or https://"),
            Self::Secret { min_length: 0 } => f.write_str("secret of visible ASCII characters"),
            Self::Secret { min_length } => {
                write!(f, "secret of at least {min_length} visible ASCII characters")
            }
        }
    }
}

impl fmt::Display for TimeUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Milliseconds => "milliseconds",
            Self::Seconds => "seconds",
        })
    }
}

pub(super) fn parse_integer(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

pub(super) fn parse_decimal(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

pub(super) fn parse_boolean(text: &str) -> Option<bool> {
    text.trim().to_ascii_lowercase().parse().ok()
}

/// Returns a URL without its user name and password. Also accepts text that is not a URL: error messages
/// show such text because it is not one.
pub fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    match rest.rsplit_once('@') {
        Some((_, host)) if scheme.is_empty() => host.to_owned(),
        Some((_, host)) => format!("{scheme}://{host}"),
        None => url.to_owned(),
    }
}
