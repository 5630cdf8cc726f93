//! Redis with time limits: no caller waits for a server that is gone.
//!
//! ```text
//! command -> Outage: down? refuse at once -> one multiplexed connection, 25 ms -> answer
//!               ^                                            |
//!               '--- a probe asks until it answers again <---'  three failures in a row
//! ```
//!
//! * A call ends within [`LIMIT`], whatever the server or the network does, and all calls that a request waits
//!   for together do ([`Patience`]). What waits for something to happen does so on a connection of its own.
//! * After three failures in a row no call waits at all, until a probe of our own, every 100 ms,
//!   has had an answer.
//! * Nothing is sent twice: whether a lost answer belongs to a command that ran is not knowable,
//!   and only the caller knows whether running it twice does harm.
//! * What the server refuses (a wrong type, a faulty script) is an error and no outage.
//! * A client has keys of one prefix, which a cluster keeps in one place. So one server has them all, be it the
//!   only one, the master that sentinels name, or a node of a cluster; where that is, a probe looks again.
//! * Addresses are shown without their password.
//!
//! The only room that names the Redis client; who needs its words takes them from here.

mod client;
mod find;
mod link;
mod outage;
mod patience;
mod url;

pub use client::{HELD, LIMIT, Redis, RedisError, State};
pub use outage::Outage;
pub use patience::Patience;
pub use redis::{Cmd, FromRedisValue, Script, ScriptInvocation, ToRedisArgs, Value, cmd};
pub use url::RedisUrl;
