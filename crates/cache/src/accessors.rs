//! Access to a request's extensions, and the state that all parts of the layer share.

use http::Extensions;

use crate::{Cache, CachePolicy};

/// Sender of a request.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Owner of the responses made for this client; empty if it is anonymous.
    pub tenant: &'a str,
    /// True if the request carried credentials.
    pub has_credentials: bool,
}

/// Functions by which the layer reads and writes a request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Accessors {
    /// Returns the cache policy in force for the request; `None` turns caching off.
    pub policy: fn(&Extensions) -> Option<&CachePolicy>,
    /// Returns the sender of the request.
    pub client: fn(&Extensions) -> Client<'_>,
    /// Returns the metrics label of the request after the handler has responded. The label is stored with
    /// the response, in memory and in the second level.
    pub label: fn(&Extensions) -> Box<str>,
    /// Restores the stored label on a request that is served from the cache.
    pub set_label: fn(&Extensions, &str),
}

/// State that the layer and its fetches share.
pub(crate) struct LayerState {
    pub(crate) cache: Cache,
    pub(crate) accessors: Accessors,
    /// Name of this cache in `Cache-Status`.
    pub(crate) name: String,
}
