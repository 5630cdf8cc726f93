//! Calls to the running services that a command targets.

use std::{net::SocketAddr, time::Duration};

use axum::body::{Body, to_bytes};
use http::{HeaderValue, Method, Request, StatusCode, header::CONTENT_TYPE};
use phase6_breaker::Settings;
use phase6_catalog::{SERVICES, Service, names};
use phase6_chassis::{CallError, Principal, Role, Upstream, identity::InternalToken};
use phase6_live::Live;
use phase6_policy::CircuitBreaker;
use phase6_runner::RunError;
use serde_json::Value;

use crate::args::{Credentials, Target};

/// Longest wait for a service.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3);
/// Largest response body, in bytes.
const MAX_RESPONSE: usize = 1024 * 1024;

impl Target {
    /// Returns the targeted services, in the order of the catalog.
    pub(crate) fn services(&self) -> Result<Vec<&'static Service>, RunError> {
        if let Some(unknown) = self.only.iter().find(|name| Service::find(name).is_none()) {
            return Err(RunError::Usage(format!("--only names {unknown}; accepted: {}", names())));
        }
        let is_targeted =
            |service: &&Service| self.only.is_empty() || self.only.iter().any(|name| name == service.name);
        Ok(SERVICES.iter().filter(is_targeted).collect())
    }

    pub(crate) fn address(&self, service: &Service) -> SocketAddr {
        SocketAddr::new(self.bind, service.port_from(self.base_port))
    }

    /// Returns a client of a service. With the internal token of the environment, if there is one and the fleet
    /// is on this machine, it acts as an admin of the fleet; assertions are never sent over a network. A command
    /// with an API key acts as the holder of that key.
    pub(crate) fn upstream(&self, service: &'static Service, credentials: &Credentials) -> Upstream {
        let settings = Live::new(Settings::from(&CircuitBreaker::default()));
        let address = self.address(service).to_string();
        let token = std::env::var("PHASE6_INTERNAL_TOKEN")
            .ok()
            .filter(|_| self.bind.is_loopback() && credentials.api_key.is_none());
        let token = token.and_then(|token| InternalToken::new(&token)).unwrap_or_else(InternalToken::random);
        let admin = Principal { role: Role::Admin, ..Principal::service("phase6-cli") };
        Upstream::new(service.name, &[address], &settings, token, admin)
    }
}

/// A request of a command to a service.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// JSON.
    pub(crate) body: Option<String>,
}

/// Failure of a call.
pub(crate) enum CallFailure {
    /// Nothing listens at the address.
    NotRunning,
    /// The service rejected the request, or did not respond.
    Other(String),
}

impl CallFailure {
    /// Describes the failure in a few words.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::NotRunning => "not running".to_owned(),
            Self::Other(text) => text,
        }
    }
}

impl Credentials {
    /// Sends a request, and returns the JSON of its successful response.
    pub(crate) async fn send(&self, upstream: &Upstream, call: Call) -> Result<Value, CallFailure> {
        let mut request = Request::new(call.body.map_or_else(Body::empty, Body::from));
        *request.method_mut() = call.method;
        *request.uri_mut() =
            call.path.parse().map_err(|_| other(format!("{:?} is not a path", call.path)))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.api_key {
            let accepted = "--api-key (or PHASE6_API_KEY) is invalid; accepted: visible characters";
            let mut key = HeaderValue::from_str(key).map_err(|_| other(accepted))?;
            key.set_sensitive(true);
            request.headers_mut().insert("x-api-key", key);
        }
        let response = upstream.call(request, DEADLINE).await?;
        let status = response.status();
        let body = tokio::time::timeout(DEADLINE, to_bytes(response.into_body(), MAX_RESPONSE))
            .await
            .map_err(|_| other(format!("no complete response within {} s", DEADLINE.as_secs())))?
            .map_err(other)?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        if status == StatusCode::UNAUTHORIZED {
            let problem =
                if self.api_key.is_some() { "the API key is not accepted" } else { "an API key is required" };
            return Err(other(format!("{problem}: --api-key KEY, or PHASE6_API_KEY")));
        }
        let message = body["error"]["message"].as_str();
        Err(message.map_or_else(|| other(format!("status {status}")), other))
    }
}

fn other(text: impl ToString) -> CallFailure {
    CallFailure::Other(text.to_string())
}

impl From<CallError> for CallFailure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { .. } => Self::NotRunning,
            error => other(error),
        }
    }
}
