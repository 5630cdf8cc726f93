//! From a `Phase6Service` to the objects that run it.
//!
//! ```text
//! fetch -> validate -> build -> apply -> report
//!                      ^^^^^
//! ```
//!
//! [`build`] is pure: the resource and what is published now go in, the objects that should exist
//! come out. It builds the policy's `ConfigMap`. The other steps, the other objects and the
//! program `phase6-operator` need a cluster to be tested on and come with it.

pub mod build;
