//! What can go wrong in a reconcile. All of it is tried again.

/// Why a reconcile did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what it was asked.
    #[error("cannot {what}: {}", said(source))]
    Api {
        /// What was asked, as in "apply Service budget".
        what: String,
        /// What it said.
        source: Box<kube::Error>,
    },
    /// An object with the name of ours belongs to somebody else.
    #[error("{kind} {name} exists and does not belong to this resource; rename or remove one of them")]
    NameTaken {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Another replica of the operator writes now.
    #[error("this replica is not the leader any more")]
    NotLeader,
}

/// What the API server said, without the envelope that it came in.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    pub(crate) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }

    /// The reason of a condition, if the API server understood us and would not. That another writer was
    /// faster, or that it has too much to do, passes.
    pub fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) if !matches!(status.code, 409 | 429) => Some("ApplyRefused"),
                _ => None,
            },
            Self::NameTaken { .. } => Some("NameTaken"),
            Self::NotLeader => None,
        }
    }

    /// One word of a closed set, for a metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) if status.code == 409 => "conflict",
                kube::Error::Api(status) if status.code == 403 => "forbidden",
                kube::Error::Api(status) if status.code == 422 => "invalid",
                kube::Error::Api(_) => "api",
                _ => "connection",
            },
            Self::NameTaken { .. } => "name_taken",
            Self::NotLeader => "not_leader",
        }
    }
}
