//! Connections: below HTTP, before any request is understood.

mod accept;
mod body;
mod io;
mod phase;

pub(crate) use accept::serve;
pub use accept::{ConnectionCounts, ConnectionLimits};
pub use body::{BodyError, BodyLimits, RequestBody};
