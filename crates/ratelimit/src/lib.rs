//! Token-bucket rate limiting with limits that can change at any time.
//!
//! ```text
//! request -> Limits::rule    the rule that applies
//!         -> Limits::bucket  the bucket of the client under that rule
//!         -> Backend::decide admit or refuse
//! ```
//!
//! * [`gcra`] decides for a single bucket. Pure, with an explicit clock.
//! * [`LocalBuckets`] keeps one replica's buckets in a table of fixed size. A flood of new keys does not
//!   displace the buckets of busy keys.
//! * [`SharedBuckets`] leases tokens from buckets in Redis that all replicas share. Its three cores are pure:
//!   [`lease`] decides within one replica, [`escrow`] decides in the shared state, and [`backend_state`]
//!   decides when a replica may use the shared state.
//! * [`RateLimitLayer`] enforces the decision in front of a service and reports it in response headers.
//!
//! A bucket stores the number of used tokens and a timestamp, never the limit, so a new limit applies to the
//! existing state. The layer refuses in `call` and never waits in `poll_ready`.

mod backend;
pub mod backend_state;
pub mod escrow;
pub mod gcra;
mod headers;
mod layer;
pub mod lease;
mod limits;
mod local;
mod shared;

pub use backend::{Backend, BackendDecision, BucketConfig, BucketRef, Buckets, Owner, Sharing};
pub use gcra::{Decision, Limit};
pub use layer::{
    Client, DecisionCounts, RateLimit, RateLimitFuture, RateLimitLayer, Refusal, RequestAccessors,
};
pub use limits::{Limits, Rule};
pub use local::{LocalBuckets, LocalStats};
pub use shared::{FallbackCounts, SharedBuckets, SharedStats};
