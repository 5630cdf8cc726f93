//! Periodic work of a service, on every replica or on one replica at a time.
//!
//! ```text
//! Jobs::singleton("clean-up", ...)  -> loop: lease -> run -> wait   SQL lease with an epoch
//! Jobs::every_replica("follow", ...)-> loop:          run -> wait
//!                                        |
//!                                        '--> JobSnapshot: last result, lag, counts
//! ```
//!
//! * [`Jobs`] starts jobs and shows their state. A job runs again one period after its last run has ended, and
//!   sooner or later after a failure ([`RetryDelay`]).
//! * [`Lease`] makes one replica the holder. When its holder is killed, another replica takes over within ten
//!   seconds. Each change of holder raises the epoch.
//! * [`Run::guard`] lets a write of a singleton succeed only while the run's epoch is current. A holder that was
//!   suspended for longer than its lease can therefore change nothing when it continues.
//!
//! A job can run twice for one period: when its holder is killed after the work and before the next holder
//! knows. What must happen once belongs into a transaction with a guard.

mod lease;
mod retry;
mod runner;
mod snapshot;

pub use self::{
    lease::{Epoch, Lease, LeaseLost, MIGRATIONS},
    retry::RetryDelay,
    runner::{Job, JobError, Jobs, LeaseTiming, Run, RunNowError},
    snapshot::{JobSnapshot, Outcome, Replicas},
};
