//! An HTTP response cache for one service.
//!
//! ```text
//! request -> key (tenant + URI + Vary) -> memory --hit--> judge(age, policy) -> answer
//!                                           |miss
//!                                           v
//!                        flight (one per key) -> second level (Redis or disk) -> handler -> store
//! ```
//!
//! * [`rfc9111`] says what may be stored and how long it stays fresh; [`judge`] holds an entry
//!   against today's policy. Both are pure and take the time as an argument.
//! * [`Cache`] holds entries, fetches a missing one once for all who wait, and forgets by URI, tag
//!   or prefix. An invalidation that races a fetch wins.
//! * [`CacheLayer`] puts it in front of a service.
//! * [`Flights`] does one piece of work per key for all who wait for it.
//! * [`Level`] is what a slower level behind the memory looks like. [`Remote`] is one that all replicas of
//!   a service share, and through which they hear of what each of them forgets; [`Disk`] is one of a
//!   single process.
//!
//! Entries of different tenants never meet: the tenant is part of the key, and the whole key is
//! compared on every hit. A failing level makes a slower answer, never a failed one.

mod answer;
mod ask;
mod cache;
mod disk;
pub mod duty;
mod entry;
mod fetch;
mod flight;
mod front;
mod index;
mod invalidation;
pub mod judge;
mod kept;
mod layer;
mod level;
mod memory;
mod meta;
mod packed;
mod remote;
pub mod rfc9111;

pub use ask::{Ask, Client};
pub use cache::{Cache, Stats};
pub use disk::Disk;
pub use entry::{Entry, Key, normalised};
pub use flight::{Boarding, Flights, Passenger, Pilot};
pub use invalidation::Invalidation;
pub use judge::Terms;
pub use layer::{CacheFuture, CacheLayer, Cached};
pub use level::{Asked, Found, Hear, Level, LevelStats, Making, Now, Ticket};
pub use remote::Remote;
#[cfg(fuzzing)]
pub use remote::fuzzing;
