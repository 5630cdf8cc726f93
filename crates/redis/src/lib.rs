//! Redis client with a time limit on every call and fail-fast behavior during an outage.
//!
//! ```text
//! command -> OutageDetector: outage? fail at once -> one multiplexed connection, 25 ms -> reply
//!                  ^                                           |
//!                  '----- probe, until Redis replies again <---'  three failures in a row
//! ```
//!
//! * A call ends within [`CALL_LIMIT`], whatever the server or the network does. All calls that one request
//!   waits for share one [`WaitBudget`]. Blocking commands run on a separate connection.
//! * After three consecutive failures, calls fail immediately until a probe, sent every 100 ms, succeeds.
//! * No command is sent twice. After a lost reply the client cannot know if the command ran, and only the
//!   caller knows if running it again is harmful.
//! * A rejected command (wrong type, faulty script) is an error, not an outage.
//! * All keys of a client share one prefix in braces, so a Redis Cluster keeps them in one slot. One server
//!   owns them all: the only server, the master that the sentinels name, or a cluster node. The probe looks
//!   for that server again during an outage.
//! * Addresses are displayed without their password.
//!
//! No other crate depends on the `redis` library; the types that callers need are re-exported here.

mod client;
mod connection;
mod discovery;
mod outage;
mod url;
mod wait_budget;

pub use client::{BLOCK_LIMIT, CALL_LIMIT, Redis, RedisError, ServerStatus};
pub use redis::{Cmd, FromRedisValue, Script, ScriptInvocation, ToRedisArgs, Value, cmd};
pub use url::RedisUrl;
pub use wait_budget::WaitBudget;
