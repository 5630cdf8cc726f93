//! Settings of services: environment variables that are declared, validated and documented in one place.
//!
//! ```text
//! const Setting --declared in--> Needs::settings --+--> help table, docs/reference/settings.md
//!                                                  +--> Settings::new: every invalid value, not the first
//! Environment -------------------------------------'         |
//!                                                  Kit::settings: typed readers, which cannot fail
//! ```
//!
//! A reader panics for a setting that is not declared: that is a bug, and every start of the service shows
//! it. Unknown variables are checked by the program, which knows its command line.

mod environment;
mod setting;
mod settings;

pub use self::{
    environment::Environment,
    setting::{Setting, SettingKind, TimeUnit, without_credentials},
    settings::{InvalidSetting, InvalidSettings, Settings},
};
