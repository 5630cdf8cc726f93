//! Options that `up` and `serve` share, and the host that services get from them: database, Redis,
//! collector, keys, sockets.

#![allow(clippy::doc_markdown, reason = "doc comments of options are help texts for a terminal")]

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use ipnet::IpNet;
use phase6_chassis::{
    Access, Clock, ConnectionLimits, Environment, Host, Settings,
    identity::{InternalToken, Keys, KeysConfig, OpenKeysError},
};
use phase6_live::Live;
use phase6_otlp::{Collector, CollectorError, Protocol};
use phase6_store::DatabaseUrl;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    LogFormat, RunError, error_chain,
    settings::{HOST_SETTINGS, INTERNAL_TOKEN},
};

/// Version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Command-line options that `up` and `serve` share.
#[derive(Debug, Args)]
pub struct HostOptions {
    /// Folder for data that survives a restart: database files and the cache on disk
    #[arg(long, value_name = "DIR", env = "PHASE6_DATA", default_value = ".phase6")]
    pub data: PathBuf,

    /// Address to listen on; any address but loopback requires API keys
    #[arg(long, value_name = "ADDR", env = "PHASE6_BIND", default_value = "127.0.0.1")]
    pub bind: IpAddr,

    /// Database: sqlite://PATH or postgres://USER@HOST/NAME [default: a SQLite file in the data folder]
    #[arg(long, value_name = "URL", env = "PHASE6_DATABASE_URL", hide_env_values = true)]
    // A string until `host` parses it: clap repeats values that it cannot parse, and a URL may hold a
    // password.
    pub database: Option<String>,

    /// Redis through which replicas share limits and cached responses:
    /// redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], redis-sentinel://...SENTINEL[:PORT],.../MASTER or
    /// redis-cluster://...HOST[:PORT],...; rediss for TLS [default: each replica enforces its share of a
    /// shared limit and has its own cache]
    #[arg(long, value_name = "URL", env = "PHASE6_REDIS_URL", hide_env_values = true)]
    // A string for the same reason.
    pub redis: Option<String>,

    /// OpenTelemetry collector that receives finished spans: http://HOST:PORT, or https:// for TLS. Request
    /// headers are read from OTEL_EXPORTER_OTLP_HEADERS [default: no export; each service shows its newest
    /// spans]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env_values = true)]
    pub otlp: Option<String>,

    /// Protocol of the collector: http/protobuf (port 4318) or grpc (port 4317)
    #[arg(
        long,
        value_name = "PROTOCOL",
        env = "OTEL_EXPORTER_OTLP_PROTOCOL",
        default_value = "http/protobuf"
    )]
    pub otlp_protocol: String,

    /// File of accepted API keys, one line per key, as `phase6 keys create --file FILE` writes it; read again when
    /// it changes. `phase6 keys create` without --file creates keys in the database
    #[arg(long, value_name = "FILE", env = "PHASE6_API_KEYS")]
    pub api_keys: Option<PathBuf>,

    /// Networks of proxies whose X-Forwarded-For header is trusted
    #[arg(long, value_name = "CIDR", value_delimiter = ',', env = "PHASE6_TRUSTED_PROXIES")]
    pub trusted_proxies: Vec<IpNet>,

    /// Log format [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT", env = "PHASE6_LOG")]
    pub log: Option<LogFormat>,
}

/// Builds the host of the services in this process.
///
/// `store_wait` is the longest wait for a database that cannot be reached when a service starts.
/// `has_private_database` is true if no other service uses the database file of this process.
pub(crate) async fn host(
    options: &HostOptions,
    peers: HashMap<String, Live<Vec<String>>>,
    store_wait: Duration,
    has_private_database: bool,
) -> Result<Host, RunError> {
    let environment = Environment::of_process();
    let settings =
        Settings::new(HOST_SETTINGS, &environment).map_err(|invalid| RunError::Usage(invalid.to_string()))?;
    let internal = match settings.secret(&INTERNAL_TOKEN) {
        Some(token) => InternalToken::new(token).expect("settings are validated before they are read"),
        None => InternalToken::random(),
    };
    let database = match &options.database {
        // The value is not repeated: it may hold a password.
        Some(url) => url
            .parse()
            .map_err(|error| RunError::Usage(format!("--database (or PHASE6_DATABASE_URL): {error}")))?,
        None => DatabaseUrl::file(options.data.join("phase6.db")),
    };
    let redis = match options.redis.as_deref().filter(|url| !url.is_empty()) {
        Some(url) => {
            let invalid = |error: String| RunError::Usage(format!("--redis (or PHASE6_REDIS_URL): {error}"));
            Some(url.parse().map_err(invalid)?)
        }
        None => None,
    };
    create_data_folder(&options.data)?;
    let keys_database = match &database {
        // Keys in it would be accepted by this process only.
        DatabaseUrl::Sqlite(_) if has_private_database => None,
        database => Some(database.clone()),
    };
    let keys = open_keys(options, keys_database, store_wait).await?;
    Ok(Host {
        redis,
        collector: collector(options)?,
        shared_as: None,
        access: Access { keys, internal, trusted_proxies: options.trusted_proxies.clone() },
        database,
        store_wait,
        cache_folder: Some(options.data.join("cache")),
        peers,
        connections: ConnectionLimits::default(),
        environment,
        clock: Clock::default(),
        version: VERSION,
    })
}

/// Returns the collector that receives finished spans, if one is configured.
fn collector(options: &HostOptions) -> Result<Option<Collector>, RunError> {
    let invalid = |name: &str, error: String| RunError::Usage(format!("--{name}: {error}"));
    let protocol: Protocol = options
        .otlp_protocol
        .parse()
        .map_err(|error| invalid("otlp-protocol (or OTEL_EXPORTER_OTLP_PROTOCOL)", error_chain(&error)))?;
    let Some(endpoint) = options.otlp.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
        return Ok(None);
    };
    match Collector::new(endpoint, protocol) {
        Ok(collector) => Ok(Some(collector)),
        Err(CollectorError::Environment(error)) => Err(RunError::Usage(error.to_string())),
        Err(error) => Err(invalid("otlp (or OTEL_EXPORTER_OTLP_ENDPOINT)", error_chain(&error))),
    }
}

/// Reads the API keys. Fails if other machines can reach the process and none exists.
async fn open_keys(
    options: &HostOptions,
    database: Option<DatabaseUrl>,
    wait: Duration,
) -> Result<Keys, RunError> {
    let is_reachable = !options.bind.is_loopback();
    let config = KeysConfig { file: options.api_keys.clone(), database, always_required: is_reachable };
    let keys = Keys::open(config, wait).await.map_err(|error| match error {
        OpenKeysError::Store { .. } => RunError::Failed(error_chain(&error)),
        _ => RunError::Usage(format!("--api-keys: {}", error_chain(&error))),
    })?;
    let create = "create one with `phase6 keys create --file FILE NAME`";
    if let Some(file) = &options.api_keys
        && keys.is_empty()
    {
        // Whoever names a file expects that keys are required.
        return Err(RunError::Usage(format!("--api-keys {} holds no key; {create}", file.display())));
    }
    if is_reachable && keys.is_empty() {
        return Err(RunError::Usage(format!(
            "--bind {} is reachable from other machines and requires API keys: {create}, and pass the file with \
             --api-keys FILE",
            options.bind
        )));
    }
    // Until the process ends.
    tokio::spawn(keys.clone().follow(CancellationToken::new()));
    Ok(keys)
}

/// Creates the data folder, and makes sure that it can be written.
fn create_data_folder(folder: &Path) -> Result<(), RunError> {
    // The name is unique per process: other processes may start in this folder at this moment, also on other
    // machines.
    let probe = folder.join(format!(".writable-{:016x}", rand::random::<u64>()));
    let result = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&probe, b"phase6"))
        .and_then(|()| std::fs::remove_file(&probe));
    result.map_err(|error| {
        RunError::Failed(format!(
            "cannot write to the data folder {}: {error}; choose another one with --data DIR",
            folder.display()
        ))
    })
}

/// Returns the address at which this machine reaches a socket that listens on `bind`.
pub(crate) fn reachable_at(bind: IpAddr) -> IpAddr {
    if bind.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bind }
}

/// Opens a listening socket for the service `name`; `advice` ends the error message.
pub(crate) fn listen(bind: IpAddr, port: u16, name: &str, advice: &str) -> Result<TcpListener, RunError> {
    let address = SocketAddr::new(bind, port);
    phase6_chassis::listen(address).map_err(|error| {
        let cause = match error.kind() {
            std::io::ErrorKind::AddrInUse => "is in use by another process".to_owned(),
            std::io::ErrorKind::AddrNotAvailable => "is not an address of this machine".to_owned(),
            std::io::ErrorKind::PermissionDenied => "may not be used by this user".to_owned(),
            _ => format!("cannot be used: {error}"),
        };
        RunError::Failed(format!("{name}: {address} {cause}; {advice}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes once shared the file that proves the folder writable, and removed it for each other.
    #[test]
    fn many_processes_can_start_in_one_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let data = &folder.path().join("data");
        std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| scope.spawn(move || (0..100).try_for_each(|_| create_data_folder(data))))
                .collect();
            for start in starts {
                start.join().unwrap().unwrap();
            }
        });
        assert_eq!(std::fs::read_dir(data).unwrap().count(), 0, "nothing is left behind");
    }
}
