//! Connections: below HTTP, before any request is understood.

mod accept;
mod body;
#[cfg(fuzzing)]
pub mod fuzzing;
mod io;
mod listen;
mod phase;

pub use accept::{ConnectionCounts, ConnectionLimits};
pub(crate) use accept::{Ending, serve};
pub use body::{BodyError, BodyLimits, RequestBody};
pub use listen::listen;
