//! Rate limiting: a token bucket for every key, whose limit may change at any moment.
//!
//! ```text
//! request -> Limits::rule (which limit) -> key (whose bucket) -> Backend::decide -> admit | 429
//! ```
//!
//! * [`gcra`] decides about one bucket: pure, with an explicit clock.
//! * [`Memory`] holds buckets in a table of fixed size; a flood of new keys costs no busy key its
//!   state.
//! * [`Shared`] holds leases of buckets that all replicas share: [`lease`] is what a replica decides by
//!   itself, [`escrow`] what the shared state decides, [`contact`] when it is asked at all. All are pure.
//! * [`RateLimitLayer`] puts the decision in front of a service and says it in headers.
//!
//! A bucket stores how much is used and when, never the limit: a new limit meets the old state.
//! The layer refuses in `call` and never waits in `poll_ready`.

mod backend;
pub mod contact;
pub mod escrow;
pub mod gcra;
mod headers;
mod layer;
pub mod lease;
mod limits;
mod memory;
mod shared;

pub use backend::{Backend, Bucketed, Buckets, Sharing, Terms, Verdict};
pub use gcra::{Decision, Limit};
pub use layer::{Ask, RateLimit, RateLimitFuture, RateLimitLayer, Refusal};
pub use limits::{Limits, Rule};
pub use memory::{Memory, Stats};
pub use shared::{Shared, SharedStats};
