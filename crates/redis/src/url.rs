//! Address and topology of a Redis deployment. Displayed without its password.

use std::{fmt, str::FromStr};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

/// Accepted forms of a URL, for the error text.
const ACCEPTED: &str = "accepted: redis://[[user]:password@]host[:port][/database], \
     redis-sentinel://[[user]:password@]sentinel[:port][,...]/master[/database] or \
     redis-cluster://[[user]:password@]host[:port][,...], and rediss for redis with TLS";
/// Addresses accepted in one URL.
const MAX_ADDRESSES: usize = 32;

/// Address of a Redis deployment:
///
/// * `redis://[[user]:password@]host[:port][/database]`: one server.
/// * `redis-sentinel://[[user]:password@]sentinel[:port][,...]/master[/database]`: the server that these
///   sentinels report as the master of that name. User and password belong to the master; they are sent to a
///   sentinel only if it requires authentication.
/// * `redis-cluster://[[user]:password@]host[:port][,...]`: a cluster, by the addresses of some of its nodes.
///
/// `rediss` instead of `redis` selects TLS. Certificates are verified against the system's certificate
/// authorities, or those in the file named by `SSL_CERT_FILE`.
#[derive(Clone)]
pub struct RedisUrl {
    pub(crate) topology: Topology,
    /// Addresses in the URL: the server, the sentinels, or nodes of the cluster.
    pub(crate) addresses: Vec<ConnectionAddr>,
    /// Connection settings of a server: TLS, credentials, database. Its address is the first of the URL.
    server: ConnectionInfo,
}

/// Kind of deployment, which determines how the server that owns the keys is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// One server.
    Single,
    /// Sentinels report the current master.
    Sentinel {
        /// Name of the master.
        master: String,
    },
    /// Every node redirects to the owner of a key.
    Cluster,
}

impl RedisUrl {
    /// Returns the connection settings of a server at this address.
    pub(crate) fn server(&self, address: ConnectionAddr) -> ConnectionInfo {
        self.server.clone().set_addr(address)
    }

    /// Returns the connection settings of a sentinel at this address, without credentials.
    pub(crate) fn sentinel(&self, address: ConnectionAddr) -> ConnectionInfo {
        self.server(address).set_redis_settings(RedisConnectionInfo::default())
    }

    /// Returns the connection settings of a sentinel that requires authentication. A sentinel has no
    /// databases.
    pub(crate) fn authenticated_sentinel(&self, address: ConnectionAddr) -> ConnectionInfo {
        let settings = self.server.redis_settings().clone().set_db(0);
        self.server(address).set_redis_settings(settings)
    }

    /// Returns the address of another server of this deployment; it uses TLS if the URL does.
    pub(crate) fn address_at(&self, host: &str, port: u16) -> ConnectionAddr {
        match self.server.addr() {
            ConnectionAddr::TcpTls { tls_params, .. } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: false,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (encryption, kind) = scheme.split_once('-').unwrap_or((scheme, ""));
        if !matches!(encryption, "redis" | "rediss") {
            return None;
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (topology, database) = match kind {
            "" if scheme == encryption => {
                let server = parse_server(text)?;
                let addresses = vec![server.addr().clone()];
                return Some(Self { topology: Topology::Single, addresses, server });
            }
            "cluster" if path.is_empty() => (Topology::Cluster, ""),
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if master.is_empty() || !master.chars().all(allowed) {
                    return None;
                }
                (Topology::Sentinel { master: master.to_owned() }, database)
            }
            _ => return None,
        };
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |parts| parts);
        let at = if user.is_empty() { "" } else { "@" };
        let default_port = if topology == Topology::Cluster { 6379 } else { 26379 };
        let servers = hosts.split(',').map(|host| {
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
            let port = if has_port { String::new() } else { format!(":{default_port}") };
            parse_server(&format!("{encryption}://{user}{at}{host}{port}/{database}"))
        });
        let servers = servers.collect::<Option<Vec<_>>>().filter(|servers| servers.len() <= MAX_ADDRESSES)?;
        let addresses = servers.iter().map(|server| server.addr().clone()).collect();
        Some(Self { topology, addresses, server: servers.into_iter().next()? })
    }
}

/// Parses the URL of one server. Rejects `#insecure`, which would disable certificate verification.
fn parse_server(text: &str) -> Option<ConnectionInfo> {
    let info = text.into_connection_info().ok()?;
    match info.addr() {
        ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { insecure: false, .. } => Some(info),
        _ => None,
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// The message lists the accepted forms. It does not repeat the URL, which may contain a password.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("invalid Redis URL; {ACCEPTED}"))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if matches!(self.server.addr(), ConnectionAddr::TcpTls { .. }) { "s" } else { "" };
        let addresses = self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let database = self.server.redis_settings().db();
        match &self.topology {
            Topology::Single => write!(f, "redis{tls}://{addresses}/{database}"),
            Topology::Sentinel { master } => {
                write!(f, "redis{tls}-sentinel://{addresses}/{master}/{database}")
            }
            Topology::Cluster => write!(f, "redis{tls}-cluster://{addresses}"),
        }
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
    fn parses_every_topology_and_displays_it_without_the_password() {
        for (url, displayed) in [
            ("redis://user:secret@10.0.0.7:6380/2", "redis://10.0.0.7:6380/2"),
            ("rediss://:secret@cache.example", "rediss://cache.example:6379/0"),
            ("redis-sentinel://s1,s2:5000/main", "redis-sentinel://s1:26379,s2:5000/main/0"),
            ("rediss-sentinel://:secret@s1/main/3", "rediss-sentinel://s1:26379/main/3"),
            ("redis-cluster://u:secret@a:1,b", "redis-cluster://a:1,b:6379"),
            ("rediss-cluster://[::1]", "rediss-cluster://::1:6379"),
        ] {
            let parsed: RedisUrl = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(parsed.to_string(), displayed);
            assert_eq!(format!("{parsed:?}"), displayed);
        }
    }

    #[test]
    fn rejects_an_invalid_url_without_repeating_it() {
        for invalid in [
            "",
            "10.0.0.7",
            "http://secret@x",
            "redis://:secret@",
            "unix:/secret",
            "redis+unix:///secret",
            "redis://x:port",
            "rediss://:secret@x/#insecure",
            "redis-://secret",
            "redis-ring://secret",
            "redis-sentinel://s1",
            "redis-sentinel://s1/secret name",
            "redis-sentinel://s1/main/secret",
            "redis-cluster://a,/",
            "redis-cluster://a/2",
            "rediss-cluster://a,:secret@b/#insecure",
        ] {
            let error = invalid.parse::<RedisUrl>().unwrap_err();
            assert!(error.contains("accepted: redis://") && !error.contains("secret"), "{invalid}: {error}");
        }
    }

    #[test]
    fn a_sentinel_gets_credentials_only_on_the_authenticated_connection() {
        let url: RedisUrl = "redis-sentinel://user:secret@s1/main/3".parse().unwrap();
        let address = url.addresses[0].clone();
        let anonymous = url.sentinel(address.clone());
        assert_eq!((anonymous.redis_settings().username(), anonymous.redis_settings().db()), (None, 0));
        let authenticated = url.authenticated_sentinel(address.clone());
        assert_eq!(
            (authenticated.redis_settings().username(), authenticated.redis_settings().db()),
            (Some("user"), 0)
        );
        assert_eq!(url.server(address).redis_settings().db(), 3);
    }
}
