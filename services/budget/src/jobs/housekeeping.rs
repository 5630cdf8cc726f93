//! Housekeeping: follows the provider policy of other replicas, and cleans up the database.
//!
//! Replicas may clean up at the same time: each statement claims the rows that it removes.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::app::AppState;

/// Time between two reads of the provider policy.
const POLICY_REFRESH: Duration = Duration::from_secs(2);
/// Number of reads of the policy between two clean-ups of the database.
const REFRESHES_PER_CLEAN_UP: u32 = 15;

/// Runs until the service stops.
pub(crate) async fn housekeeping(state: Arc<AppState>, stop: CancellationToken) {
    for round in 0_u32.. {
        if let Err(error) = state.refresh_policy().await {
            tracing::warn!(%error, "failed to read the provider policy");
        }
        if round.is_multiple_of(REFRESHES_PER_CLEAN_UP) {
            state.clean_up().await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(POLICY_REFRESH) => {}
        }
    }
}
