//! Where buckets live.

use std::{
    future::Future,
    hash::{BuildHasher, Hash},
    net::IpAddr,
    pin::Pin,
};

use phase6_policy::BackendFailure;
use sha2::{Digest, Sha256};

use crate::{
    Memory, Shared,
    gcra::{Decision, Limit},
};

/// A place that holds buckets and decides about them.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Takes one token from a bucket.
    fn decide(&self, bucket: &Bucketed<'_>, terms: &Terms) -> Verdict;
}

/// A decision, or the promise of one by a backend that has to ask elsewhere.
pub enum Verdict {
    /// Decided on the spot.
    Now(Decision),
    /// To be decided within the backend's own time limit.
    Later(Pin<Box<dyn Future<Output = Decision> + Send>>),
}

/// What is enforced on a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Its size and refill.
    pub limit: Limit,
    /// How it is shared with other replicas; none: it is this replica's own.
    pub sharing: Option<Sharing>,
}

/// How a bucket is shared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sharing {
    /// Among so many.
    pub replicas: u32,
    /// The part of each of them, while they cannot share.
    pub share: Limit,
    /// What is done in the meantime.
    pub on_failure: BackendFailure,
}

/// The bucket of a request.
#[derive(Clone, Copy, Debug)]
pub struct Bucketed<'a> {
    /// A number that differs from process to process, so that nobody can choose keys that collide.
    pub hash: u64,
    rule: u64,
    whose: Whose<'a>,
}

/// Whose requests share a bucket.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Whose<'a> {
    Everybody,
    V4([u8; 4]),
    /// One subscriber holds a whole /64.
    V6([u8; 8]),
    Client(&'a str),
    Header(&'a [u8]),
}

impl From<IpAddr> for Whose<'_> {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => Self::V6(v6.octets()[..8].try_into().expect("eight of sixteen bytes")),
        }
    }
}

impl<'a> Bucketed<'a> {
    pub(crate) fn new(rule: u64, whose: Whose<'a>, hasher: &impl BuildHasher) -> Self {
        Self { hash: hasher.hash_one((rule, whose)), rule, whose }
    }

    /// A name that is the same in every replica, and tells nothing of whose it is.
    pub fn name(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.rule.to_le_bytes());
        let (kind, text): (u8, &[u8]) = match &self.whose {
            Whose::Everybody => (0, &[]),
            Whose::V4(octets) => (1, octets),
            Whose::V6(octets) => (2, octets),
            Whose::Client(client) => (3, client.as_bytes()),
            Whose::Header(value) => (4, value),
        };
        hasher.update([kind]);
        hasher.update(text);
        let digest = hasher.finalize();
        let half = u128::from_be_bytes(digest[..16].try_into().expect("sixteen of 32 bytes"));
        format!("{half:032x}")
    }
}

/// The buckets of a service: those that are its replicas' together, where there is shared state, and those
/// that are each replica's own.
#[derive(Clone)]
pub struct Buckets {
    /// This replica's own.
    pub own: Memory,
    /// Those of all replicas.
    pub shared: Option<Shared>,
}

impl Backend for Buckets {
    fn decide(&self, bucket: &Bucketed<'_>, terms: &Terms) -> Verdict {
        match &self.shared {
            Some(shared) if terms.sharing.is_some() => shared.decide(bucket, terms),
            _ => self.own.decide(bucket, terms),
        }
    }
}
