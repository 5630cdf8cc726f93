//! A circuit breaker: stops calling what fails, and finds out when it is back.
//!
//! ```text
//!            ratio of failures reached              openFor is over
//!   closed ----------------------------> open ---------------------> half-open
//!     ^                                   ^                            |    |
//!     |                                   '------- a probe fails ------'    |
//!     '-------------------- every probe succeeded --------------------------'
//! ```
//!
//! * [`state`] is the machine: pure, with an explicit clock. Settings come with every call, so a
//!   change of settings keeps the history and acts at once.
//! * [`Breaker`] shares one machine between callers. A [`Permit`] is the right to one call; a
//!   permit that is dropped without a word (a cancelled call) gives its probe back.
//! * [`BreakerLayer`] puts a breaker in front of a client service.
//!
//! A 429 is not a failure: [`Outcome::Throttled`] holds calls back until the peer's own time.

mod layer;
mod shared;
pub mod state;

pub use layer::{BreakerLayer, Call, Guarded};
pub use shared::{Backend, Breaker, Memory, Permit, Snapshot};
pub use state::{Outcome, Phase, Refused, Settings};
