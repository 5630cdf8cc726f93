//! Stands in for the client of the API server in builds without the feature `cluster`: options that need
//! it are refused, and no policy ever arrives from there.

use phase6_catalog::Service;

use super::{ServeOptions, peers::Peers};
use crate::RunError;

/// No connection to an API server.
pub(super) struct Cluster;

impl Cluster {
    #[allow(clippy::unused_async, reason = "the same signature as with the feature")]
    pub(super) async fn connect(
        options: &ServeOptions,
        _service: &Service,
        _peers: &Peers,
    ) -> Result<Self, RunError> {
        let option = if options.policy_object.is_some() {
            "--policy-object"
        } else if options.follow_peers {
            "--follow-peers"
        } else {
            return Ok(Self);
        };
        Err(RunError::Usage(format!(
            "{option} needs a client of the Kubernetes API, and this program was built without one; build it \
             with `cargo build --release --features cluster`"
        )))
    }

    #[allow(clippy::unused_self, reason = "the same signature as with the feature")]
    pub(super) fn policy_name(&self) -> &'static str {
        ""
    }

    #[allow(clippy::unused_async, clippy::unused_self, reason = "the same signature as with the feature")]
    pub(super) async fn current_policy(&mut self) -> Option<Vec<u8>> {
        None
    }

    #[allow(clippy::unused_self, reason = "the same signature as with the feature")]
    pub(super) async fn changed_policy(&mut self) -> Vec<u8> {
        std::future::pending().await
    }
}
