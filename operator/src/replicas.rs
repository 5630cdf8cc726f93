//! Asks replicas which policy they enforce.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Deserialize;

/// Longest wait for a replica's answer: it is a few hundred bytes from memory.
const PATIENCE: Duration = Duration::from_millis(500);
/// So many replicas are asked at a time.
const AT_A_TIME: usize = 32;
/// Longest answer that is read.
const LONGEST_ANSWER: usize = 64 * 1024;

/// A replica that receives requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The pod's name.
    pub name: String,
    /// Where it answers, as `HOST:PORT`.
    pub address: String,
}

/// What a replica says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What it enforces.
    Enforces(State),
    /// It did not answer, or not in a way that can be understood.
    Silent(String),
}

/// The policy in force in a replica.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct State {
    /// The uid of the resource that it was compiled from.
    pub uid: String,
    /// Its revision.
    pub revision: u64,
    /// Its fingerprint.
    pub hash: String,
    /// Why a newer one was refused, if it was.
    pub error: Option<String>,
}

/// Those of `pods` that receive requests: ready, and not told to stop. In the order of their names.
pub fn ready<'a>(pods: impl IntoIterator<Item = &'a Pod>, port: u16) -> Vec<Replica> {
    let mut replicas: Vec<Replica> = pods
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod))
        .filter_map(|pod| {
            let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
            let address = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
            Some(Replica { name: pod.name_any(), address })
        })
        .collect();
    replicas.sort_by(|a, b| a.name.cmp(&b.name));
    replicas
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Asks replicas over HTTP. Clones share connections.
#[derive(Clone)]
pub struct Asker {
    client: reqwest::Client,
}

impl Asker {
    /// # Errors
    ///
    /// The HTTP client cannot be set up.
    pub fn new() -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(1)
            .build()?;
        Ok(Self { client })
    }

    /// Every replica's answer, in their order.
    pub async fn ask(&self, replicas: &[Replica]) -> Vec<Answer> {
        let questions: Vec<_> = replicas.iter().map(|replica| self.ask_one(&replica.address)).collect();
        stream::iter(questions).buffered(AT_A_TIME).collect().await
    }

    async fn ask_one(&self, address: &str) -> Answer {
        let silent = |error: reqwest::Error| {
            let why = if error.is_timeout() { "no answer in time".to_owned() } else { root(&error) };
            Answer::Silent(why)
        };
        let request = self.client.get(format!("http://{address}/policyz"));
        let mut response = match request.send().await.and_then(reqwest::Response::error_for_status) {
            Ok(response) => response,
            Err(error) => return silent(error),
        };
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= LONGEST_ANSWER => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => return Answer::Silent("its answer is too long".into()),
                Ok(None) => break,
                Err(error) => return silent(error),
            }
        }
        match serde_json::from_slice(&body) {
            Ok(state) => Answer::Enforces(state),
            Err(error) => Answer::Silent(format!("its answer is not understood: {error}")),
        }
    }
}

/// The innermost cause, which says more than its wrappers.
fn root(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
