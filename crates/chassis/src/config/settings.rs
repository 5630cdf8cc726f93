//! Values of the declared settings of one service.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use super::{
    Environment, Setting, SettingKind, TimeUnit,
    setting::{parse_boolean, parse_decimal, parse_integer},
};

/// Valid values of declared settings. Clones share them.
///
/// Every reader panics if the setting is not among the declared ones, or has another type.
#[derive(Clone, Default)]
pub struct Settings {
    /// Value of each declared setting by name; `None` if its variable is absent.
    values: Arc<HashMap<&'static str, Option<String>>>,
}

/// Settings whose values are not accepted: all of them, not the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSettings(pub Vec<InvalidSetting>);

/// A setting whose value is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSetting {
    /// Name of the variable.
    pub name: &'static str,
    /// Value; `None` for a secret.
    pub value: Option<String>,
    /// Accepted values.
    pub accepted: String,
}

impl Settings {
    /// Takes the values of `declared` settings from the environment.
    ///
    /// # Errors
    ///
    /// Values of the wrong type or out of bounds.
    pub fn new(declared: &[Setting], environment: &Environment) -> Result<Self, InvalidSettings> {
        let mut values = HashMap::new();
        let mut invalid = Vec::new();
        for Setting { name, kind, .. } in declared {
            let accepted = || match kind {
                SettingKind::Boolean { .. } => kind.to_string(),
                _ => format!("a {kind}"),
            };
            let value = environment.get(name);
            if let Some(value) = value.filter(|value| !kind.accepts(value)) {
                invalid.push(InvalidSetting { name, value: kind.shown(value), accepted: accepted() });
            }
            if environment.is_unreadable(name) {
                let accepted = format!("UTF-8, and {}", accepted());
                invalid.push(InvalidSetting { name, value: None, accepted });
            }
            values.insert(*name, value.map(str::to_owned));
        }
        if invalid.is_empty() { Ok(Self { values: Arc::new(values) }) } else { Err(InvalidSettings(invalid)) }
    }

    /// True if the environment has a value for the setting.
    pub fn is_set(&self, setting: &Setting) -> bool {
        self.value(setting).is_some()
    }

    /// Value of an integer.
    pub fn integer(&self, setting: &Setting) -> u64 {
        let SettingKind::Integer { default, .. } = setting.kind else { wrong_kind(setting) };
        self.value(setting).map_or(default, |text| parse_integer(text).expect(VALIDATED))
    }

    /// Value of a duration.
    pub fn duration(&self, setting: &Setting) -> Duration {
        let SettingKind::Duration { unit, default, .. } = setting.kind else { wrong_kind(setting) };
        let number = self.value(setting).map_or(default, |text| parse_integer(text).expect(VALIDATED));
        match unit {
            TimeUnit::Milliseconds => Duration::from_millis(number),
            TimeUnit::Seconds => Duration::from_secs(number),
        }
    }

    /// Value of a decimal number, in its unit.
    pub fn decimal(&self, setting: &Setting) -> f64 {
        let SettingKind::Decimal { default, .. } = setting.kind else { wrong_kind(setting) };
        self.value(setting).map_or(default, |text| parse_decimal(text).expect(VALIDATED))
    }

    /// Value of a boolean.
    pub fn boolean(&self, setting: &Setting) -> bool {
        let SettingKind::Boolean { default } = setting.kind else { wrong_kind(setting) };
        self.value(setting).map_or(default, |text| parse_boolean(text).expect(VALIDATED))
    }

    /// Value or default of a text.
    pub fn text(&self, setting: &Setting) -> Option<&str> {
        let SettingKind::Text { default } = setting.kind else { wrong_kind(setting) };
        self.value(setting).or(default)
    }

    /// Value or default of a URL.
    pub fn url(&self, setting: &Setting) -> Option<&str> {
        let SettingKind::Url { default, .. } = setting.kind else { wrong_kind(setting) };
        self.value(setting).map(str::trim).or(default)
    }

    /// Value of a secret.
    pub fn secret(&self, setting: &Setting) -> Option<&str> {
        let SettingKind::Secret { .. } = setting.kind else { wrong_kind(setting) };
        self.value(setting).map(str::trim)
    }

    fn value(&self, setting: &Setting) -> Option<&str> {
        match self.values.get(setting.name) {
            Some(value) => value.as_deref(),
            None => panic!("the setting {} is read, but not declared", setting.name),
        }
    }
}

const VALIDATED: &str = "settings are validated before they are read";

fn wrong_kind(setting: &Setting) -> ! {
    panic!("the setting {} is read as another type than {}", setting.name, setting.kind)
}

impl fmt::Display for InvalidSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} is {value:?}; accepted: {}", self.name, self.accepted),
            None => write!(f, "{} is not valid; accepted: {}", self.name, self.accepted),
        }
    }
}

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => only.fmt(f),
            all => {
                write!(f, "{} settings are invalid:", all.len())?;
                all.iter().try_for_each(|setting| write!(f, "\n  {setting}"))
            }
        }
    }
}

impl std::error::Error for InvalidSettings {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::without_credentials;

    const LIMIT: Setting =
        Setting { name: "LIMIT", kind: SettingKind::Integer { min: 1, max: 12, default: 4 }, about: "Limit" };
    const PAUSE: Setting = Setting {
        name: "PAUSE_MS",
        kind: SettingKind::Duration { unit: TimeUnit::Milliseconds, min: 1, max: 60_000, default: 2_500 },
        about: "Pause",
    };
    const PRICE: Setting = Setting {
        name: "PRICE",
        kind: SettingKind::Decimal { unit: "dollars", min: 0.0, max: 1e9, default: 0.25 },
        about: "Price",
    };
    const ENABLED: Setting =
        Setting { name: "ENABLED", kind: SettingKind::Boolean { default: true }, about: "Switch" };
    const MODEL: Setting =
        Setting { name: "MODEL", kind: SettingKind::Text { default: Some("small") }, about: "Model" };
    const ADDRESS: Setting = Setting {
        name: "ADDRESS",
        kind: SettingKind::Url { default: None, is_valid: |url| !url.contains(' ') },
        about: "Address",
    };
    const KEY: Setting = Setting { name: "KEY", kind: SettingKind::Secret { min_length: 0 }, about: "Key" };
    const TOKEN: Setting =
        Setting { name: "TOKEN", kind: SettingKind::Secret { min_length: 16 }, about: "Token" };
    const ALL: &[Setting] = &[LIMIT, PAUSE, PRICE, ENABLED, MODEL, ADDRESS, KEY, TOKEN];

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, InvalidSettings> {
        Settings::new(ALL, &variables.iter().copied().collect())
    }

    #[test]
    fn absent_and_empty_variables_have_their_defaults() {
        for variables in [&[][..], &[("LIMIT", ""), ("MODEL", ""), ("KEY", "")]] {
            let settings = settings(variables).unwrap();
            assert_eq!(settings.integer(&LIMIT), 4);
            assert_eq!(settings.duration(&PAUSE), Duration::from_millis(2_500));
            assert!((settings.decimal(&PRICE) - 0.25).abs() < f64::EPSILON);
            assert!(settings.boolean(&ENABLED));
            assert_eq!(settings.text(&MODEL), Some("small"));
            assert_eq!((settings.url(&ADDRESS), settings.secret(&KEY)), (None, None));
            assert!(!settings.is_set(&LIMIT));
        }
    }

    #[test]
    fn values_are_read_without_surrounding_spaces() {
        let settings = settings(&[
            ("LIMIT", " 12 "),
            ("PRICE", " 1.5"),
            ("ENABLED", " False "),
            ("ADDRESS", " https://host/v1 "),
            ("KEY", " secret "),
        ]);
        let settings = settings.unwrap();
        assert_eq!(settings.integer(&LIMIT), 12);
        assert!((settings.decimal(&PRICE) - 1.5).abs() < f64::EPSILON);
        assert!(!settings.boolean(&ENABLED) && settings.is_set(&ENABLED));
        assert_eq!(settings.url(&ADDRESS), Some("https://host/v1"));
        assert_eq!(settings.secret(&KEY), Some("secret"));
    }

    #[test]
    fn every_invalid_value_is_reported_with_what_is_accepted() {
        let invalid = settings(&[
            ("LIMIT", "13"),
            ("PAUSE_MS", "soon"),
            ("PRICE", "-1"),
            ("ENABLED", "fasle"),
            ("ADDRESS", "ftp://user:password@host"),
            ("KEY", "line\nbreak"),
            ("TOKEN", "too-short"),
        ]);
        let text = invalid.err().unwrap().to_string();
        let expected = "7 settings are invalid:\n  \
            LIMIT is \"13\"; accepted: a whole number from 1 to 12\n  \
            PAUSE_MS is \"soon\"; accepted: a whole number of milliseconds from 1 to 60000\n  \
            PRICE is \"-1\"; accepted: a number of dollars from 0 to 1000000000\n  \
            ENABLED is \"fasle\"; accepted: true or false\n  \
            ADDRESS is \"ftp://host\"; accepted: a URL that begins with http:// or https://\n  \
            KEY is not valid; accepted: a secret of visible ASCII characters\n  \
            TOKEN is not valid; accepted: a secret of at least 16 visible ASCII characters";
        assert_eq!(text, expected);
    }

    #[test]
    fn out_of_bounds_and_malformed_numbers_are_refused() {
        for (name, value) in [
            ("LIMIT", "0"),
            ("LIMIT", "1.5"),
            ("LIMIT", "-1"),
            ("PAUSE_MS", "60001"),
            ("PRICE", "NaN"),
            ("PRICE", "inf"),
            ("PRICE", "1e10"),
            ("ADDRESS", "https://a b"),
        ] {
            let invalid = settings(&[(name, value)]).err().unwrap();
            assert!(
                invalid.to_string().starts_with(&format!("{name} is {value:?}; accepted: a ")),
                "{invalid}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "the setting LIMIT is read, but not declared")]
    fn a_setting_that_is_not_declared_cannot_be_read() {
        Settings::new(&[PAUSE], &Environment::default()).unwrap().integer(&LIMIT);
    }

    #[test]
    fn credentials_in_urls_are_never_shown() {
        for (url, shown) in [
            ("http://user:pa:ss@host:1/v1", "http://host:1/v1"),
            ("http://user@host", "http://host"),
            ("user:p@ss@host", "host"),
            ("http://host/v1", "http://host/v1"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
