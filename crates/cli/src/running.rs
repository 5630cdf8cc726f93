//! What `up` and `serve` have in common: where a service finds what it needs.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use phase6_chassis::{Access, ApiKeys, ConnectionLimits, Host, InternalToken, Settings};
use phase6_live::Live;
use phase6_otlp::{Collector, CollectorError, Protocol};
use phase6_store::DatabaseUrl;
use tokio::net::TcpListener;

use crate::{
    args::Common,
    ending::{Ending, chain},
};

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the services of this process get.
pub(crate) fn host(
    common: &Common,
    peers: HashMap<String, Live<Vec<String>>>,
    patience: Duration,
) -> Result<Host, Ending> {
    let settings = Settings::from_environment();
    let keys = match &common.api_keys {
        Some(file) => read_keys(file)?,
        None => ApiKeys::default(),
    };
    if !common.bind.is_loopback() && keys.is_empty() {
        let how =
            "make one with `phase6 key OWNER`, put its line into a file and give it with --api-keys FILE";
        return Err(Ending::Usage(format!(
            "--bind {} is open to others and needs API keys: {how}",
            common.bind
        )));
    }
    let internal = match settings.get("PHASE6_INTERNAL_TOKEN") {
        Some(token) => InternalToken::new(token).ok_or_else(|| {
            Ending::Usage(
                "PHASE6_INTERNAL_TOKEN is not usable; accepted: at least 16 visible characters".into(),
            )
        })?,
        None => InternalToken::random(),
    };
    let database = match &common.database {
        // The value is not repeated: it may hold a password.
        Some(url) => url
            .parse()
            .map_err(|error| Ending::Usage(format!("--database (or PHASE6_DATABASE_URL): {error}")))?,
        None => DatabaseUrl::file(common.data.join("phase6.db")),
    };
    let redis = match common.redis.as_deref().filter(|url| !url.is_empty()) {
        Some(url) => {
            let told = |error: String| Ending::Usage(format!("--redis (or PHASE6_REDIS_URL): {error}"));
            Some(url.parse().map_err(told)?)
        }
        None => None,
    };
    make_folder(&common.data)?;
    Ok(Host {
        redis,
        spans: spans(common)?,
        shared_as: None,
        access: Access { keys, internal, trusted_proxies: common.trusted_proxies.clone() },
        database,
        patience,
        cache_folder: Some(common.data.join("cache")),
        peers,
        connections: ConnectionLimits::default(),
        settings,
        version: VERSION,
    })
}

/// The collector that finished spans go to.
fn spans(common: &Common) -> Result<Option<Collector>, Ending> {
    let told = |name: &str, error: String| Ending::Usage(format!("--{name}: {error}"));
    let protocol: Protocol = common
        .otlp_protocol
        .parse()
        .map_err(|error| told("otlp-protocol (or OTEL_EXPORTER_OTLP_PROTOCOL)", chain(&error)))?;
    let Some(endpoint) = common.otlp.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
        return Ok(None);
    };
    match Collector::new(endpoint, protocol) {
        Ok(collector) => Ok(Some(collector)),
        Err(CollectorError::Environment(error)) => Err(Ending::Usage(error.to_string())),
        Err(error) => Err(told("otlp (or OTEL_EXPORTER_OTLP_ENDPOINT)", chain(&error))),
    }
}

fn read_keys(file: &Path) -> Result<ApiKeys, Ending> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Ending::Usage(format!("--api-keys {}: {error}", file.display())))?;
    let keys: ApiKeys =
        text.parse().map_err(|error| Ending::Usage(format!("--api-keys {}: {error}", file.display())))?;
    if keys.is_empty() {
        // Without any key everybody would be let in, which nobody means who names a file of keys.
        let file = file.display();
        return Err(Ending::Usage(format!(
            "--api-keys {file} holds no key; make one with `phase6 key OWNER` and put its line into the file"
        )));
    }
    Ok(keys)
}

/// Makes the data folder and makes sure that it can be written.
fn make_folder(folder: &Path) -> Result<(), Ending> {
    // Others may start in the same folder at the same time, also from other machines.
    let probe = folder.join(format!(".writable-{:016x}", rand::random::<u64>()));
    let result = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&probe, b"phase6"))
        .and_then(|()| std::fs::remove_file(&probe));
    result.map_err(|error| {
        let how = "choose another one with --data DIR";
        Ending::Findings(format!("cannot write to the data folder {}: {error}; {how}", folder.display()))
    })
}

/// Where this machine reaches what listens at an address: what listens everywhere is reached at home.
pub(crate) fn reached_at(bind: IpAddr) -> IpAddr {
    if bind.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bind }
}

/// Listens, or says what is in the way.
pub(crate) fn listen(bind: IpAddr, port: u16, name: &str, advice: &str) -> Result<TcpListener, Ending> {
    let address = SocketAddr::new(bind, port);
    phase6_chassis::listen(address).map_err(|error| {
        let what = match error.kind() {
            std::io::ErrorKind::AddrInUse => "is taken by another program".to_owned(),
            std::io::ErrorKind::AddrNotAvailable => "is no address of this machine".to_owned(),
            std::io::ErrorKind::PermissionDenied => "is not for this user".to_owned(),
            _ => format!("cannot be used: {error}"),
        };
        Ending::Findings(format!("{name}: {address} {what}; {advice}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They shared a file that showed whether the folder can be written, and took it from each other.
    #[test]
    fn many_can_start_in_one_folder_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let data = &folder.path().join("data");
        std::thread::scope(|scope| {
            let starting: Vec<_> =
                (0..8).map(|_| scope.spawn(move || (0..100).try_for_each(|_| make_folder(data)))).collect();
            for start in starting {
                start.join().unwrap().unwrap();
            }
        });
        assert_eq!(std::fs::read_dir(data).unwrap().count(), 0, "nothing is left behind");
    }
}
