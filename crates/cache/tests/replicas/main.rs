//! Replicas of one service over one real Redis.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod fill_lock;
mod invalidation;
mod outage;
mod replica;
mod sharing;
