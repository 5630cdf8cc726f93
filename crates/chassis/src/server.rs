//! Connections: everything below HTTP requests, from the listening socket to bodies on their way.

mod accept;
mod body;
mod connection;
mod counts;
#[cfg(fuzzing)]
pub mod fuzzing;
mod io;
mod limits;
mod listen;
mod progress;
mod shutdown;

pub(crate) use self::{
    accept::serve,
    counts::{ConnectionCounts, ConnectionSnapshot},
    shutdown::Shutdown,
};
pub use self::{
    body::{BodyError, RequestBody},
    limits::{BodyLimits, ConnectionLimits},
    listen::listen,
};
