//! One request as its handler and layers see it: caller, deadline, typed parts, and the envelope of the
//! response.

mod caller;
pub mod deadline;
mod envelope;
mod error;
mod extract;
mod fault;
mod fields;
mod idempotent;
mod live;
mod page;
mod permission;
mod precondition;

pub use self::{
    caller::{Access, Caller, INTERNAL, X_FORWARDED_FOR},
    error::{ApiError, ErrorBody, ErrorDetail, FAULT, Reply},
    extract::{Json, Path, Query, parse_json},
    fields::{Faults, FieldFault},
    idempotent::{Idempotency, IdempotencyHeader, Idempotent},
    live::{LastEventId, LastEventIdHeader, event_stream},
    page::{Page, PageQuery, PageRequest},
    permission::{require, require_in_fleet},
    precondition::{IfMatch, etag},
};
pub(crate) use self::{
    deadline::{DEADLINE, Deadline, DeadlineLayer},
    envelope::{Envelope, EnvelopeLayer},
    error::{body_too_large, unparsed_request_response},
    extract::body_error,
    idempotent::delete_expired,
    permission::{Permission, Permissions},
};
