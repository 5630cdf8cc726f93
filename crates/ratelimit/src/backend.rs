//! The interface between the layer and the stores of buckets.
//!
//! Identifies the bucket of a request ([`BucketRef`]), describes the limit to enforce on it
//! ([`BucketConfig`]), and routes the decision to the local or the shared store ([`Buckets`]). The stores
//! themselves decide.

use std::{
    future::Future,
    hash::{BuildHasher, Hash},
    net::IpAddr,
    pin::Pin,
};

use phase6_policy::BackendFailure;
use sha2::{Digest, Sha256};

use crate::{
    LocalBuckets, SharedBuckets,
    gcra::{Decision, Limit},
};

/// A store that holds buckets and decides for them.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Takes one token from a bucket.
    fn decide(&self, bucket: &BucketRef<'_>, config: &BucketConfig) -> BackendDecision;
}

/// A decision, or a future of it if the backend has to query other state first.
pub enum BackendDecision {
    /// The decision is known now.
    Ready(Decision),
    /// The decision resolves within the backend's own time limit.
    Pending(Pin<Box<dyn Future<Output = Decision> + Send>>),
}

/// The limit to enforce on a bucket, and how replicas share it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketConfig {
    /// Capacity and refill rate.
    pub limit: Limit,
    /// Sharing with other replicas; `None` if the bucket belongs to this replica alone.
    pub sharing: Option<Sharing>,
}

/// Parameters of a bucket that replicas share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sharing {
    /// Number of replicas that share the bucket.
    pub replicas: u32,
    /// Limit of each replica while the shared state is unavailable.
    pub share: Limit,
    /// Behavior while the shared state is unavailable.
    pub on_failure: BackendFailure,
}

/// A reference to the bucket of one request.
#[derive(Clone, Copy, Debug)]
pub struct BucketRef<'a> {
    /// Hash of rule and key, seeded per process so that clients cannot choose keys that collide.
    pub hash: u64,
    rule: u64,
    key: BucketKey<'a>,
}

/// An authenticated client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner<'a> {
    /// Tenant, without slashes.
    pub tenant: &'a str,
    /// Person or program within the tenant.
    pub subject: &'a str,
}

/// The property of a request that selects its bucket.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum BucketKey<'a> {
    /// One bucket for all requests.
    Global,
    Ipv4([u8; 4]),
    /// The /64 prefix of an IPv6 address: one subscriber usually holds a whole /64.
    Ipv6Prefix([u8; 8]),
    Owner(Owner<'a>),
    Header(&'a [u8]),
}

impl From<IpAddr> for BucketKey<'_> {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::Ipv4(v4.octets()),
            IpAddr::V6(v6) => {
                Self::Ipv6Prefix(v6.octets()[..8].try_into().expect("8 of an address's 16 bytes"))
            }
        }
    }
}

impl<'a> BucketRef<'a> {
    pub(crate) fn new(rule: u64, key: BucketKey<'a>, hasher: &impl BuildHasher) -> Self {
        Self { hash: hasher.hash_one((rule, key)), rule, key }
    }

    /// Returns the bucket's name in the shared state. Identical in every replica, and a digest, so that it
    /// does not disclose the client.
    pub fn name(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.rule.to_le_bytes());
        // No tenant contains a slash, so no two owners have the same text.
        let (kind, text): (u8, [&[u8]; 3]) = match &self.key {
            BucketKey::Global => (0, [&[], &[], &[]]),
            BucketKey::Ipv4(octets) => (1, [octets, &[], &[]]),
            BucketKey::Ipv6Prefix(octets) => (2, [octets, &[], &[]]),
            BucketKey::Owner(Owner { tenant, subject }) => (3, [tenant.as_bytes(), b"/", subject.as_bytes()]),
            BucketKey::Header(value) => (4, [value, &[], &[]]),
        };
        hasher.update([kind]);
        for part in text {
            hasher.update(part);
        }
        let digest = hasher.finalize();
        let half = u128::from_be_bytes(digest[..16].try_into().expect("16 of a digest's 32 bytes"));
        format!("{half:032x}")
    }
}

/// All buckets of a service: those of this replica alone, and those it shares with other replicas.
#[derive(Clone)]
pub struct Buckets {
    /// Buckets of this replica alone.
    pub local: LocalBuckets,
    /// Buckets of all replicas; `None` without shared state.
    pub shared: Option<SharedBuckets>,
}

impl Backend for Buckets {
    fn decide(&self, bucket: &BucketRef<'_>, config: &BucketConfig) -> BackendDecision {
        match &self.shared {
            Some(shared) if config.sharing.is_some() => shared.decide(bucket, config),
            _ => self.local.decide(bucket, config),
        }
    }
}
