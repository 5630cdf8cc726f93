//! Tests of the service over HTTP, with a server that imitates the providers.
//!
//! The rules of the model and the mapping of errors have unit tests; here the whole service runs,
//! with its chassis, its database and its clients.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod event_stream;
mod fake_providers;
mod harness;
mod idempotency;

mod answer_cache;
mod availability;
mod budget;
mod cancellation;
mod charging;
mod cohorts;
mod daily_limit;
mod failover;
mod formats;
mod live_events;
mod openapi;
mod policy;
mod ranking;
mod recommendations;
mod service_policy;
mod streams;
mod validation;
