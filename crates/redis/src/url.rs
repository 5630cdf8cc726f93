//! Where a Redis server is. Never shows its password.

use std::{fmt, str::FromStr};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};

/// The address of a Redis server: `redis://[[user]:password@]host[:port][/database]`, or `rediss://` for
/// TLS, with the certificate checked against the system's authorities or those of `SSL_CERT_FILE`.
#[derive(Clone)]
pub struct RedisUrl(ConnectionInfo);

impl RedisUrl {
    pub(crate) fn info(&self) -> ConnectionInfo {
        self.0.clone()
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    /// Reads an address.
    ///
    /// # Errors
    ///
    /// A sentence that says what is accepted. It does not repeat the address, which may hold a
    /// password.
    fn from_str(text: &str) -> Result<Self, String> {
        let known = text.starts_with("redis://") || text.starts_with("rediss://");
        let info = known.then(|| text.into_connection_info().ok()).flatten();
        // A certificate that is not checked proves nothing.
        let checked =
            info.filter(|info| !matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }));
        checked.map(Self).ok_or_else(|| {
            "no address of a Redis server; accepted: redis://[[user]:password@]host[:port][/database], \
             or rediss:// for TLS"
                .to_owned()
        })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if matches!(self.0.addr(), ConnectionAddr::TcpTls { .. }) { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}/{}", self.0.addr(), self.0.redis_settings().db())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let url: RedisUrl = "redis://user:secret@10.0.0.7:6380/2".parse().unwrap();
        assert_eq!(url.to_string(), "redis://10.0.0.7:6380/2");
        assert_eq!(format!("{url:?}"), url.to_string());
        let url: RedisUrl = "rediss://:secret@cache.example".parse().unwrap();
        assert_eq!(url.to_string(), "rediss://cache.example:6379/0");
    }

    #[test]
    fn a_wrong_address_is_refused_without_repeating_it() {
        for wrong in [
            "",
            "10.0.0.7",
            "http://secret@x",
            "redis://:secret@",
            "unix:/secret",
            "redis://x:port",
            "rediss://:secret@x/#insecure",
        ] {
            let told = wrong.parse::<RedisUrl>().unwrap_err();
            assert!(told.contains("accepted: redis://") && !told.contains("secret"), "{wrong}: {told}");
        }
    }
}
