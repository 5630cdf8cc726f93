//! Which replica of the operator writes: the one that holds the Lease.
//!
//! A holder that could not renew says at once that it does not hold it any more, well before another
//! replica may take it. The Lease is the release's: it is never made here, so that it goes with the rest.

use std::time::Duration;

use kube::{Client, Config};
use kube_lease_manager::{
    LeaseCreateMode, LeaseManager, LeaseManagerBuilder, LeaseManagerError, LeaseParams,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::{run::Ended, settings::Settings};

const LEASE: &str = "phase6-operator";
/// A leader that falls silent is followed by another one after this many seconds.
const DURATION: u64 = 10;
/// It renews this long before the end: time for one attempt, and for noticing that it failed.
const GRACE: u64 = 6;
/// Longest wait for an answer about the Lease; less than [`GRACE`] even if it is asked twice.
const PATIENCE: Duration = Duration::from_millis(2500);
/// Pause after an error.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes part in the election: whether the Lease is held, and the task that sees to it, which ends after
/// nobody looks any more.
pub(crate) fn elect(
    mut config: Config,
    settings: &Settings,
) -> Result<(watch::Receiver<bool>, JoinHandle<()>), Ended> {
    config.connect_timeout = Some(PATIENCE);
    config.read_timeout = Some(PATIENCE);
    config.write_timeout = Some(PATIENCE);
    let client = Client::try_from(config).map_err(|error| Ended::NoCluster(error.to_string()))?;
    let (namespace, identity) = (settings.namespace().to_owned(), settings.pod_name.clone());
    let (sender, receiver) = watch::channel(false);
    let task = tokio::spawn(async move {
        while !sender.is_closed() {
            let parameters = LeaseParams::new(&identity, DURATION, GRACE);
            let builder = LeaseManagerBuilder::new(client.clone(), LEASE).with_namespace(&namespace);
            let builder = builder.with_create_mode(LeaseCreateMode::UseExistent);
            let result = match builder.with_parameters(parameters).build().await {
                Ok(manager) => hold(&manager, &sender).await,
                Err(error) => Err(error),
            };
            let Err(error) = result else { return };
            // Whoever held it may not have it any more.
            sender.send_if_modified(std::mem::take);
            tracing::warn!(%error, "the Lease cannot be seen to");
            tokio::select! {
                () = sender.closed() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    });
    Ok((receiver, task))
}

/// Holds the Lease, or waits for it, until nobody looks any more or an error comes.
async fn hold(manager: &LeaseManager, sender: &watch::Sender<bool>) -> Result<(), LeaseManagerError> {
    loop {
        tokio::select! {
            () = sender.closed() => return manager.release().await,
            changed = manager.changed() => {
                sender.send_replace(changed?);
            }
        }
    }
}
