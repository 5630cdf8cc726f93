//! The cache in front of a service, tested through its middleware with a manual clock.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod disk;
mod harness;
mod headers;
mod invalidation;
mod single_flight;
mod storage;
