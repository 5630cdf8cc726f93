//! Periodic work.
//!
//! | Job | Replicas | Period |
//! |---|---|---|
//! | `provider-policy` | every | 2 s |
//! | `expired-reservations` | one | 30 s |
//! | `expired-answers` | one | 30 s |
//!
//! The last two need no guard: each of their statements claims the rows that it removes, so two replicas that
//! run them at the same time remove nothing twice.

use std::{sync::Arc, time::Duration};

use phase6_chassis::jobs::{Job, Jobs};

use crate::app::AppState;

/// Time between two reads of the provider policy.
const POLICY_PERIOD: Duration = Duration::from_secs(2);
/// Time between two clean-ups of the database.
const CLEAN_UP_PERIOD: Duration = Duration::from_secs(30);

/// Starts the jobs of the service.
pub(crate) fn start(jobs: &Jobs, state: &Arc<AppState>) {
    let app = Arc::clone(state);
    jobs.every_replica(Job::new("provider-policy", POLICY_PERIOD, move |_| {
        let app = Arc::clone(&app);
        async move { Ok(app.refresh_policy().await?) }
    }));
    let app = Arc::clone(state);
    jobs.singleton(Job::new("expired-reservations", CLEAN_UP_PERIOD, move |_| {
        let app = Arc::clone(&app);
        async move { Ok(app.charge_expired_reservations().await?) }
    }));
    let app = Arc::clone(state);
    jobs.singleton(Job::new("expired-answers", CLEAN_UP_PERIOD, move |_| {
        let app = Arc::clone(&app);
        async move { Ok(app.remove_expired_answers().await?) }
    }));
}
