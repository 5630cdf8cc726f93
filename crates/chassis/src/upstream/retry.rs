//! Retries of calls: which calls may be retried, and how many. Pure.
//!
//! A budget limits retries to a tenth of the calls, so that they add little load to a peer that is already
//! failing.

use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode, Uri};

/// Retries that one call adds to the budget.
const DEPOSIT_PER_CALL: f64 = 0.1;
/// Largest number of retries in the budget.
const MAX_BALANCE: f64 = 10.0;

/// Number of retries that may be made. Full at the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryBudget {
    balance: f64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { balance: MAX_BALANCE }
    }
}

impl RetryBudget {
    /// Adds the share of one call.
    pub(crate) fn deposit(&mut self) {
        self.balance = (self.balance + DEPOSIT_PER_CALL).min(MAX_BALANCE);
    }

    /// Takes one retry from the budget. Returns false if there is none.
    pub(crate) fn withdraw(&mut self) -> bool {
        if self.balance < 1.0 {
            return false;
        }
        self.balance -= 1.0;
        true
    }
}

/// True for methods whose requests may be repeated (RFC 9110, section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// True for statuses that another endpoint may not have.
pub(crate) fn is_worth_another_endpoint(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

/// Head of a request without a body, from which the request can be repeated.
pub(super) struct RequestHead {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl RequestHead {
    pub(super) fn of(request: &Request<Body>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        }
    }

    /// Creates the request again.
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
    fn retries_add_at_most_a_tenth_to_the_calls() {
        let mut budget = RetryBudget::default();
        let mut retries = 0;
        for _ in 0..10_000 {
            budget.deposit();
            retries += u32::from(budget.withdraw());
        }
        assert!(retries <= 1_000 + 10, "{retries}");
        assert!(retries >= 1_000, "{retries}");
    }
}
