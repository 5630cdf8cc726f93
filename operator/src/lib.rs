//! The operator: from a `Phase6Service` to the objects that run it, and back to its status.
//!
//! A reconcile goes through five stages. The policy takes the middle two by itself, before every other
//! object, because people wait for it.
//!
//! ```text
//! fetch  -->  validate  -->  build and apply                    -->  report
//!                              1. the policy (`publish`)               probe the replicas,
//!                              2. all other objects (`apply`)          then write status and events
//! ```
//!
//! `validate`, `build`, `drift`, `replicas` and `report` do no I/O, and `fetch` reads from the caches of
//! the watches: a reconcile that finds nothing to do makes no call. The operator keeps no state that the
//! cluster does not hold. An interrupted reconcile is completed by the next one, of this process or
//! another.
//!
//! A module depends only on modules in the lines below its own, which `tests/modules.rs` checks:
//!
//! ```text
//! run                                                  -- start-up and shutdown of the process
//! controller                                           -- from changes in the watches to reconciles
//! reconcile                                            -- the stages in order
//! publish, apply                                       -- the stages that write
//! writer, http                                         -- writes of the leader; endpoints
//! context                                              -- state that all of the above share
//! fetch, events, election                              -- state at the start; events; the right to write
//! validate, report, pending_writes, backoff, settings  -- rules; status; memory; command line
//! drift, probe, cluster_view, per_resource, metrics    -- comparison; replicas; watches; memory
//! build, replicas, resource, error                     -- plain data
//! ```

mod apply;
mod backoff;
mod build;
mod cluster_view;
mod context;
mod controller;
mod drift;
mod election;
mod error;
mod events;
mod fetch;
#[cfg(test)]
mod fixtures;
mod http;
mod metrics;
mod pending_writes;
mod per_resource;
mod probe;
mod publish;
mod reconcile;
mod replicas;
mod report;
mod resource;
mod run;
pub mod settings;
mod validate;
mod writer;

pub use error::{RunError, with_cause};
pub use run::run;
