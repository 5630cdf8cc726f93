//! From a `Phase6Service` to the objects that run it, and back to its status.
//!
//! ```text
//! fetch -> validate -> build -> apply -> report
//! world    crds::check  build    apply    replicas, report
//! ```
//!
//! [`build`], [`difference`] and [`report`] are pure: what is seen goes in, what should be comes out.
//! `world` keeps what the watches show, `memory` what they do not show yet, `apply` writes, `publish`
//! orders revisions, [`replicas`] asks pods, `reconcile` puts one after the other, and [`run`] is the
//! program around it. Whatever is interrupted is done by the next reconcile: nothing is remembered that
//! the cluster does not hold.

mod apply;
pub mod build;
pub mod difference;
mod election;
mod error;
mod events;
mod memory;
mod metrics;
mod publish;
mod reconcile;
pub mod replicas;
pub mod report;
pub mod run;
pub mod settings;
mod world;
