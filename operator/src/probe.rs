//! Policy probes: HTTP requests that ask each replica which policy it enforces.
//!
//! A probe never waits longer than [`TIMEOUT`], and a failed one is a result, not an error of the
//! reconcile. Judging the results is left to [`report`](crate::report).

use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde::Deserialize;

use crate::replicas::Replica;

/// Longest wait for a response, which is a few hundred bytes from memory.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Number of replicas that are probed concurrently.
const CONCURRENCY: usize = 32;
/// Longest response body that is read, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Policy that a replica reports to enforce.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReplicaPolicy {
    /// Uid of the resource that the policy was compiled from.
    pub uid: String,
    /// Revision of the policy.
    pub revision: u64,
    /// Fingerprint of the policy.
    pub hash: String,
    /// Error for which the replica rejected a newer policy, if it did.
    pub error: Option<String>,
}

/// Cause of a failed probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// No response arrived in time.
    #[error("no response within {} ms", TIMEOUT.as_millis())]
    Timeout,
    /// The request failed, or its status was an error.
    #[error("{0}")]
    Request(String),
    /// The body is longer than [`MAX_BODY`].
    #[error("response body is longer than {MAX_BODY} bytes")]
    BodyTooLong,
    /// The body is not a policy.
    #[error("response body is not a policy: {0}")]
    InvalidBody(String),
}

impl From<reqwest::Error> for ProbeError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() { Self::Timeout } else { Self::Request(root_cause(&error).to_string()) }
    }
}

/// Result of one probe.
pub type ProbeResult = Result<ReplicaPolicy, ProbeError>;

/// Replica with the result of its probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedReplica {
    /// Name of the pod.
    pub name: String,
    /// Policy that the replica enforces, or the cause of a failed probe.
    pub result: ProbeResult,
}

/// Client for policy probes. Clones share connections.
#[derive(Clone)]
pub struct PolicyProbe {
    client: reqwest::Client,
}

impl PolicyProbe {
    /// Creates a client that connects to replicas directly.
    ///
    /// # Errors
    ///
    /// Fails if the TLS backend cannot be initialized.
    pub fn new() -> Result<Self, reqwest::Error> {
        Ok(Self { client: builder().build()? })
    }

    /// Creates a client that sends every probe through an HTTP proxy.
    #[cfg(test)]
    pub fn through_proxy(url: &str) -> Result<Self, reqwest::Error> {
        Ok(Self { client: builder().proxy(reqwest::Proxy::http(url)?).build()? })
    }

    /// Probes every replica and returns the results in the order of `replicas`.
    pub async fn probe(&self, replicas: &[Replica]) -> Vec<ProbedReplica> {
        let probes: Vec<_> = replicas.iter().map(|replica| self.probe_one(replica)).collect();
        stream::iter(probes).buffered(CONCURRENCY).collect().await
    }

    async fn probe_one(&self, replica: &Replica) -> ProbedReplica {
        ProbedReplica { name: replica.name.clone(), result: self.request_policy(&replica.address).await }
    }

    async fn request_policy(&self, address: &str) -> ProbeResult {
        let request = self.client.get(format!("http://{address}/policyz"));
        let mut response = request.send().await?.error_for_status()?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(ProbeError::BodyTooLong);
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|error| ProbeError::InvalidBody(error.to_string()))
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(1)
}

/// Returns the innermost cause, which is more specific than the errors around it.
fn root_cause(error: &dyn std::error::Error) -> &dyn std::error::Error {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}
