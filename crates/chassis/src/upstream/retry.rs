//! When a call is tried again. Pure.
//!
//! Retries are paid from a budget that calls fill, so that they add at most a tenth to the load of
//! a peer that is already in trouble.

use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode, Uri};

/// What a call adds to the budget.
const PER_CALL: f64 = 0.1;
/// Most that is saved up.
const MOST: f64 = 10.0;

/// How many retries may be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    saved: f64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { saved: MOST }
    }
}

impl Budget {
    /// A call was made.
    pub(crate) fn earn(&mut self) {
        self.saved = (self.saved + PER_CALL).min(MOST);
    }

    /// Whether a retry may be made; if so it is paid for.
    pub(crate) fn spend(&mut self) -> bool {
        if self.saved < 1.0 {
            return false;
        }
        self.saved -= 1.0;
        true
    }
}

/// Whether doing it twice is the same as doing it once (RFC 9110, section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether another endpoint may answer better.
pub(crate) fn is_worth_another_endpoint(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// What is needed to make a request without a body again.
pub(super) struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Head {
    pub(super) fn of(request: &Request<Body>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        }
    }

    pub(super) fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_add_at_most_a_tenth() {
        let mut budget = Budget::default();
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.earn();
            retries += u32::from(budget.spend());
        }
        assert!(retries <= 1_000 + 10, "{retries}");
        assert!(retries >= 1_000, "{retries}");
    }
}
