//! A circuit breaker: stops calls to a failing peer and probes for its recovery.
//!
//! ```text
//!           failure ratio reached               open_for has passed
//!   closed ----------------------------> open ---------------------> half-open
//!     ^                                   ^                            |    |
//!     |                                   '------- a probe fails ------'    |
//!     '-------------------- every probe succeeded --------------------------'
//! ```
//!
//! * [`state`] is the state machine: pure, with an explicit clock. Settings are passed with every call, so
//!   new settings apply at once and to the recorded history.
//! * [`Breaker`] shares one state machine between callers. A [`Permit`] is the right to make one call; a
//!   permit dropped without an outcome (a cancelled call) releases its probe.
//! * [`CircuitBreakerLayer`] puts a breaker in front of a client service.
//!
//! A 429 is not a failure: [`Outcome::Throttled`] rejects calls until the peer's `Retry-After` has passed and
//! leaves the state as it is.

mod breaker;
mod layer;
pub mod state;

pub use breaker::{Backend, Breaker, Permit, ProcessLocal, Snapshot, Status};
pub use layer::{CallError, CircuitBreaker, CircuitBreakerLayer, ResponseFuture};
pub use state::{Outcome, Rejection, Settings, State};
