//! The commands that do not run services, one module per verb.

pub(crate) mod cache_purge;
pub(crate) mod explain;
pub(crate) mod keys;
pub(crate) mod status;
