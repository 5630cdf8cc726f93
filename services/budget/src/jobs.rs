//! Periodic work of the service.
//!
//! Every replica runs every job. A job ends when the service stops.

mod housekeeping;

pub(crate) use self::housekeeping::housekeeping;
