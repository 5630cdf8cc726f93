//! Leader election: only the replica of the operator that holds the Lease writes.
//!
//! A holder that fails to renew gives up its leadership at once, well before another replica may take the
//! Lease. The Lease belongs to the Helm release and is never created here, so that uninstalling removes it.

use std::time::Duration;

use kube::{Client, Config};
use kube_lease_manager::{
    LeaseCreateMode, LeaseManager, LeaseManagerBuilder, LeaseManagerError, LeaseParams,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{error::RunError, settings::Settings};

/// Name of the Lease.
const LEASE: &str = "phase6-operator";
/// Time in seconds after which the Lease of a silent leader expires.
const LEASE_SECONDS: u64 = 10;
/// Time in seconds from a renewal until expiry: enough for one attempt and for noticing that it failed.
const GRACE_SECONDS: u64 = 6;
/// Longest wait for one response about the Lease; two of them are shorter than [`GRACE_SECONDS`].
const REQUEST_TIMEOUT: Duration = Duration::from_millis(2500);
/// Pause after a failed attempt.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Right to write. Clones follow the same election.
#[derive(Clone)]
pub struct Leadership {
    held: Option<watch::Receiver<bool>>,
}

impl Leadership {
    /// Returns a leadership that is always held, for an operator with a single replica.
    pub fn always() -> Self {
        Self { held: None }
    }

    /// Returns a leadership that is held while the channel's value is true.
    pub fn elected(held: watch::Receiver<bool>) -> Self {
        Self { held: Some(held) }
    }

    /// Returns true if this replica may write now.
    pub fn is_held(&self) -> bool {
        self.held.as_ref().is_none_or(|held| *held.borrow())
    }

    /// Returns a channel with the outcome of the election, or `None` without an election.
    pub fn watch(&self) -> Option<watch::Receiver<bool>> {
        self.held.clone()
    }
}

/// Takes part in the election.
///
/// Returns the leadership and the task that renews the Lease. The task releases the Lease and ends once
/// every clone of the leadership is dropped.
///
/// # Errors
///
/// Fails if no client can be created from `config`.
pub fn elect(mut config: Config, settings: &Settings) -> Result<(Leadership, JoinHandle<()>), RunError> {
    config.connect_timeout = Some(REQUEST_TIMEOUT);
    config.read_timeout = Some(REQUEST_TIMEOUT);
    config.write_timeout = Some(REQUEST_TIMEOUT);
    let client = Client::try_from(config).map_err(|error| RunError::ApiServer(error.into()))?;
    let (namespace, identity) = (settings.namespace().to_owned(), settings.pod_name.clone());
    let (sender, receiver) = watch::channel(false);
    let task = tokio::spawn(async move {
        while !sender.is_closed() {
            let parameters = LeaseParams::new(&identity, LEASE_SECONDS, GRACE_SECONDS);
            let builder = LeaseManagerBuilder::new(client.clone(), LEASE).with_namespace(&namespace);
            let builder = builder.with_create_mode(LeaseCreateMode::UseExistent);
            let result = match builder.with_parameters(parameters).build().await {
                Ok(manager) => follow(&manager, &sender).await,
                Err(error) => Err(error),
            };
            let Err(error) = result else { return };
            // The Lease may have expired by now.
            sender.send_if_modified(std::mem::take);
            tracing::warn!(%error, "failed to acquire or renew the Lease");
            tokio::select! {
                () = sender.closed() => {}
                () = tokio::time::sleep(RETRY_DELAY) => {}
            }
        }
    });
    Ok((Leadership::elected(receiver), task))
}

/// Publishes each change of leadership until every receiver is dropped, then releases the Lease.
async fn follow(manager: &LeaseManager, sender: &watch::Sender<bool>) -> Result<(), LeaseManagerError> {
    loop {
        tokio::select! {
            () = sender.closed() => return manager.release().await,
            changed = manager.changed() => {
                sender.send_replace(changed?);
            }
        }
    }
}
