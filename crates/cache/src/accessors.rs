//! What the layer asks of each request, and what its parts share.

use http::Extensions;

use crate::{Cache, Terms};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Whose answers these are; empty for the anonymous.
    pub tenant: &'a str,
    /// Whether the request carried credentials.
    pub authorised: bool,
}

/// What the layer asks of each request.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The cache terms in force for it; none: nothing is cached.
    pub terms: fn(&Extensions) -> Option<&Terms>,
    /// Who asks.
    pub client: fn(&Extensions) -> Client<'_>,
    /// What the request is counted as after it was answered, kept with the answer wherever that goes.
    pub label: fn(&Extensions) -> Box<str>,
    /// Tells it again of a request that is answered from the cache.
    pub set_label: fn(&Extensions, &str),
}

/// What everything that answers a request works with.
pub(crate) struct Shared {
    pub(crate) cache: Cache,
    pub(crate) ask: Ask,
    /// This cache's name in `Cache-Status`.
    pub(crate) name: String,
}
