//! The cache in front of a service, driven from outside with a clock of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod disk;
mod forgetting;
mod headers;
mod kept;
mod rig;
mod waiting;
