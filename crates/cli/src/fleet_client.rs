//! Calls to the running services that a command targets.

use std::{net::SocketAddr, time::Duration};

use phase6_breaker::Settings;
use phase6_catalog::{SERVICES, Service, names};
use phase6_chassis::{CallError, InternalToken, Upstream};
use phase6_live::Live;
use phase6_policy::CircuitBreaker;
use phase6_runner::RunError;

use crate::args::Target;

/// Longest wait for a service.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3);

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

    /// Returns a client of a service. It authenticates with the internal token of the environment, if there
    /// is one and the fleet is on this machine: the token is never sent over a network.
    pub(crate) fn upstream(&self, service: &'static Service) -> Upstream {
        let settings = Live::new(Settings::from(&CircuitBreaker::default()));
        let address = self.address(service).to_string();
        let token = std::env::var("PHASE6_INTERNAL_TOKEN").ok().filter(|_| self.bind.is_loopback());
        let token = token.and_then(|token| InternalToken::new(&token)).unwrap_or_else(InternalToken::random);
        Upstream::new(service.name, &[address], &settings, token)
    }
}

/// Describes a failed call in a few words.
pub(crate) fn describe(error: &CallError) -> String {
    match error {
        CallError::Refused { .. } => "not running".to_owned(),
        other => other.to_string(),
    }
}
