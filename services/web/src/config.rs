//! Settings of the gateway.

use phase6_chassis::{Setting, SettingKind, TimeUnit};

/// All settings.
pub(crate) const SETTINGS: &[Setting] = &[UPSTREAM_DEADLINE];

/// Longest time until an upstream begins its response. Shorter than the time limit of a handler, 60 s.
pub(crate) const UPSTREAM_DEADLINE: Setting = Setting {
    name: "UPSTREAM_DEADLINE_MS",
    kind: SettingKind::Duration { unit: TimeUnit::Milliseconds, min: 1, max: 55_000, default: 50_000 },
    about: "Longest time until an upstream begins its response",
};
