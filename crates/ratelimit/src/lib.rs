//! Rate limiting: a token bucket for every key, whose limit may change at any moment.
//!
//! ```text
//! request -> Limits::rule (which limit) -> key (whose bucket) -> Backend::decide -> admit | 429
//! ```
//!
//! * [`gcra`] decides about one bucket: pure, with an explicit clock.
//! * [`Memory`] holds buckets in a table of fixed size; a flood of new keys costs no busy key its
//!   state.
//! * [`RateLimitLayer`] puts the decision in front of a service and says it in headers.
//!
//! A bucket stores how much is used and when, never the limit: a new limit meets the old state.
//! The layer refuses in `call` and never waits in `poll_ready`.

mod backend;
pub mod gcra;
mod headers;
mod layer;
mod limits;
mod memory;

pub use backend::{Backend, Verdict};
pub use gcra::{Decision, Limit};
pub use layer::{Ask, RateLimit, RateLimitFuture, RateLimitLayer, Refusal};
pub use limits::{Limits, Rule};
pub use memory::{Memory, Stats};
