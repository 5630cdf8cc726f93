//! The running services that a command asks.

use std::{net::SocketAddr, time::Duration};

use phase6_breaker::Settings;
use phase6_chassis::{CallError, Definition, InternalToken, Upstream};
use phase6_live::Live;
use phase6_policy::CircuitBreaker;

use crate::{
    args::Asked,
    ending::Ending,
    services::{ALL, names, port},
};

/// Longest wait for a service.
pub(crate) const LIMIT: Duration = Duration::from_secs(3);

impl Asked {
    /// The services that are meant.
    pub(crate) fn services(&self) -> Result<Vec<Definition>, Ending> {
        if let Some(unknown) = self.only.iter().find(|name| ALL.iter().all(|service| service.name != **name))
        {
            return Err(Ending::Usage(format!("--only names {unknown}; accepted: {}", names())));
        }
        let meant =
            |service: &Definition| self.only.is_empty() || self.only.iter().any(|name| name == service.name);
        Ok(ALL.into_iter().filter(meant).collect())
    }

    pub(crate) fn address(&self, service: &Definition) -> SocketAddr {
        SocketAddr::new(self.bind, port(service, self.base_port))
    }

    /// A way to a service: as one of its own where its token is in the environment, else as a stranger. The
    /// token leaves the machine for nobody.
    pub(crate) fn upstream(&self, service: &Definition) -> Upstream {
        let settings = Live::new(Settings::from(&CircuitBreaker::default()));
        let address = self.address(service).to_string();
        let token = std::env::var("PHASE6_INTERNAL_TOKEN").ok().filter(|_| self.bind.is_loopback());
        let token = token.and_then(|token| InternalToken::new(&token)).unwrap_or_else(InternalToken::random);
        Upstream::new(service.name, &[address], &settings, token)
    }
}

/// Why a service could not be asked.
pub(crate) fn not_running(error: &CallError) -> String {
    let text = error.to_string();
    if text.contains("refused") { "not running".to_owned() } else { text }
}
