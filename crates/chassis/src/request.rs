//! One request as its handler and layers see it: caller, deadline, typed parts, and the envelope of the
//! response.

mod api_keys;
mod caller;
pub mod deadline;
mod envelope;
mod error;
mod extract;
mod fault;
mod precondition;

pub use self::{
    api_keys::{ApiKeys, InvalidKeyLine},
    caller::{Access, Caller, INTERNAL, InternalToken, X_FORWARDED_FOR},
    error::{ApiError, ErrorBody, ErrorDetail, FAULT, Reply},
    extract::{Json, Path, Query, parse_json},
    precondition::{IfMatch, etag},
};
pub(crate) use self::{
    deadline::{DEADLINE, Deadline, DeadlineLayer},
    envelope::{Envelope, EnvelopeLayer},
    error::{body_too_large, unparsed_request_response},
    extract::body_error,
};
