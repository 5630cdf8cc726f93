//! Where Redis is, and of which kind. Never shows its password.

use std::{fmt, str::FromStr};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};

/// What is accepted, for whoever wrote something else.
const ACCEPTED: &str = "accepted: redis://[[user]:password@]host[:port][/database], \
     redis-sentinel://[[user]:password@]sentinel[:port][,...]/master[/database] or \
     redis-cluster://[[user]:password@]host[:port][,...], and rediss for redis with TLS";
/// Addresses in one URL.
const MOST_ADDRESSES: usize = 32;

/// Where Redis is:
///
/// * `redis://[[user]:password@]host[:port][/database]`: one server;
/// * `redis-sentinel://[[user]:password@]sentinel[:port][,...]/master[/database]`: the server that these
///   sentinels call the master of that name. User and password are the master's, and shown to a sentinel
///   that wants some;
/// * `redis-cluster://[[user]:password@]host[:port][,...]`: a cluster with these among its nodes.
///
/// `rediss` in the place of `redis` is TLS, with the certificate checked against the system's authorities
/// or those of `SSL_CERT_FILE`.
#[derive(Clone)]
pub struct RedisUrl {
    pub(crate) kind: Kind,
    /// Those that are asked first: the server, the sentinels, or nodes of the cluster.
    pub(crate) addresses: Vec<ConnectionAddr>,
    /// How a server is spoken to, at the first address.
    server: ConnectionInfo,
}

/// How the server that has our keys is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is the only one.
    Single,
    /// Sentinels know which one is the master of this name.
    Sentinel(String),
    /// Any node of a cluster knows.
    Cluster,
}

impl RedisUrl {
    /// How to speak to a server at this address.
    pub(crate) fn server(&self, address: ConnectionAddr) -> ConnectionInfo {
        self.server.clone().set_addr(address)
    }

    /// How to speak to a sentinel at this address, without showing who asks.
    pub(crate) fn sentinel(&self, address: ConnectionAddr) -> ConnectionInfo {
        self.server(address).set_redis_settings(RedisConnectionInfo::default())
    }

    /// The same for a sentinel that wants to know. It has no databases.
    pub(crate) fn known_to_sentinel(&self, address: ConnectionAddr) -> ConnectionInfo {
        let settings = self.server.redis_settings().clone().set_db(0);
        self.server(address).set_redis_settings(settings)
    }

    /// The address of another server of the same kind.
    pub(crate) fn elsewhere(&self, host: &str, port: u16) -> ConnectionAddr {
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
        let (kind, database) = match kind {
            "" if scheme == encryption => {
                let server = checked(text)?;
                return Some(Self { kind: Kind::Single, addresses: vec![server.addr().clone()], server });
            }
            "cluster" if path.is_empty() => (Kind::Cluster, ""),
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                let well = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if master.is_empty() || !master.chars().all(well) {
                    return None;
                }
                (Kind::Sentinel(master.to_owned()), database)
            }
            _ => return None,
        };
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let at = if user.is_empty() { "" } else { "@" };
        let usual = if kind == Kind::Cluster { 6379 } else { 26379 };
        let each = hosts.split(',').map(|host| {
            let named = host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
            let port = if named { String::new() } else { format!(":{usual}") };
            checked(&format!("{encryption}://{user}{at}{host}{port}/{database}"))
        });
        let all = each.collect::<Option<Vec<_>>>().filter(|all| all.len() <= MOST_ADDRESSES)?;
        let addresses = all.iter().map(|info| info.addr().clone()).collect();
        Some(Self { kind, addresses, server: all.into_iter().next()? })
    }
}

/// One address as the library understands it. A certificate that is not checked proves nothing.
fn checked(text: &str) -> Option<ConnectionInfo> {
    let info = text.into_connection_info().ok()?;
    match info.addr() {
        ConnectionAddr::Tcp(..) | ConnectionAddr::TcpTls { insecure: false, .. } => Some(info),
        _ => None,
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
        Self::parse(text).ok_or_else(|| format!("no address of a Redis; {ACCEPTED}"))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if matches!(self.server.addr(), ConnectionAddr::TcpTls { .. }) { "s" } else { "" };
        let all = self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let database = self.server.redis_settings().db();
        match &self.kind {
            Kind::Single => write!(f, "redis{tls}://{all}/{database}"),
            Kind::Sentinel(master) => write!(f, "redis{tls}-sentinel://{all}/{master}/{database}"),
            Kind::Cluster => write!(f, "redis{tls}-cluster://{all}"),
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
    fn every_kind_is_read_and_shown_without_its_password() {
        for (url, shown) in [
            ("redis://user:secret@10.0.0.7:6380/2", "redis://10.0.0.7:6380/2"),
            ("rediss://:secret@cache.example", "rediss://cache.example:6379/0"),
            ("redis-sentinel://s1,s2:5000/main", "redis-sentinel://s1:26379,s2:5000/main/0"),
            ("rediss-sentinel://:secret@s1/main/3", "rediss-sentinel://s1:26379/main/3"),
            ("redis-cluster://u:secret@a:1,b", "redis-cluster://a:1,b:6379"),
            ("rediss-cluster://[::1]", "rediss-cluster://::1:6379"),
        ] {
            let read: RedisUrl = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(read.to_string(), shown);
            assert_eq!(format!("{read:?}"), shown);
        }
    }

    #[test]
    fn a_wrong_address_is_refused_without_repeating_it() {
        for wrong in [
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
            let told = wrong.parse::<RedisUrl>().unwrap_err();
            assert!(told.contains("accepted: redis://") && !told.contains("secret"), "{wrong}: {told}");
        }
    }

    #[test]
    fn what_is_shown_to_a_sentinel_is_nothing_unless_it_asks() {
        let url: RedisUrl = "redis-sentinel://user:secret@s1/main/3".parse().unwrap();
        let address = url.addresses[0].clone();
        let shown = url.sentinel(address.clone());
        assert_eq!((shown.redis_settings().username(), shown.redis_settings().db()), (None, 0));
        let known = url.known_to_sentinel(address.clone());
        assert_eq!((known.redis_settings().username(), known.redis_settings().db()), (Some("user"), 0));
        assert_eq!(url.server(address).redis_settings().db(), 3);
    }
}
