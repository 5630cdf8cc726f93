//! An HTTP response cache for one service.
//!
//! ```text
//! request -> key (tenant + URI + Vary) -> memory --hit--> freshness(age, policy) -> response
//!                                           |miss
//!                                           v
//!                  single flight (one fetch per key) -> second level (Redis or disk) -> handler -> store
//! ```
//!
//! * [`rfc9111`] decides which responses may be stored and how long they are fresh; [`freshness`] applies the
//!   policy in force to a stored entry. Both are pure and take the time as an argument.
//! * [`Cache`] holds entries, fetches a missing one once for all requests that wait for it, and invalidates
//!   by path, tag or prefix. An invalidation that races a fetch wins.
//! * [`HttpCacheLayer`] puts a cache in front of a service.
//! * [`SingleFlight`] does one piece of work per key for all callers that wait for it.
//! * [`Level`] is the interface of a slower level behind the memory. [`Remote`] is shared by all replicas of
//!   a service, which learn of each other's invalidations through it; [`Disk`] belongs to one process.
//!
//! Entries of different tenants never mix: the tenant is part of the key, and every hit compares the whole
//! key. A failing level makes a response slower; it never makes it fail.

mod accessors;
mod cache;
mod compression;
mod disk;
mod downstream;
mod entry;
mod fetch;
pub mod fill_lock;
pub mod freshness;
mod index;
mod invalidation;
mod layer;
mod level;
mod memory;
mod remote;
mod response;
pub mod rfc9111;
mod single_flight;
mod storable;
mod stored_meta;

pub use accessors::{Accessors, Client};
pub use cache::{Cache, Stats};
pub use disk::Disk;
pub use entry::{Entry, Key, normalize_target};
pub use freshness::CachePolicy;
pub use invalidation::Invalidation;
pub use layer::{HttpCache, HttpCacheLayer, ResponseFuture};
pub use level::{
    BoxFillGuard, CacheTime, FillGuard, FoundEntry, InvalidationListener, Level, LevelLookup, LevelQuery,
    LevelStats, LevelWrite,
};
pub use remote::Remote;
#[cfg(fuzzing)]
pub use remote::fuzzing;
pub use single_flight::{Follower, Leader, Role, SingleFlight};
