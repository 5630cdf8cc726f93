//! What `up` and `serve` have in common: where a service finds what it needs.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use phase6_chassis::{Access, ApiKeys, ConnectionLimits, Host, InternalToken, Settings};
use phase6_store::DatabaseUrl;
use tokio::net::TcpListener;

use crate::{args::Common, ending::Ending};

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the services of this process get.
pub(crate) fn host(common: &Common, peers: HashMap<String, Vec<String>>) -> Result<Host, Ending> {
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
    let database =
        common.database.clone().unwrap_or_else(|| DatabaseUrl::file(common.data.join("phase6.db")));
    make_folder(&common.data)?;
    Ok(Host {
        access: Access { keys, internal, trusted_proxies: common.trusted_proxies.clone() },
        database,
        cache_folder: Some(common.data.join("cache")),
        peers,
        connections: ConnectionLimits::default(),
        settings,
        version: VERSION,
    })
}

fn read_keys(file: &Path) -> Result<ApiKeys, Ending> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Ending::Usage(format!("--api-keys {}: {error}", file.display())))?;
    text.parse().map_err(|error| Ending::Usage(format!("--api-keys {}: {error}", file.display())))
}

/// Makes the data folder and makes sure that it can be written.
fn make_folder(folder: &Path) -> Result<(), Ending> {
    let probe = folder.join(".writable");
    let result = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&probe, b"phase6"))
        .and_then(|()| std::fs::remove_file(&probe));
    result.map_err(|error| {
        let how = "choose another one with --data DIR";
        Ending::Findings(format!("cannot write to the data folder {}: {error}; {how}", folder.display()))
    })
}

/// Listens, or says what is in the way.
pub(crate) async fn listen(bind: IpAddr, port: u16, name: &str, advice: &str) -> Result<TcpListener, Ending> {
    let address = SocketAddr::new(bind, port);
    TcpListener::bind(address).await.map_err(|error| {
        let what = match error.kind() {
            std::io::ErrorKind::AddrInUse => "is taken by another program".to_owned(),
            std::io::ErrorKind::AddrNotAvailable => "is no address of this machine".to_owned(),
            std::io::ErrorKind::PermissionDenied => "is not for this user".to_owned(),
            _ => format!("cannot be used: {error}"),
        };
        Ending::Findings(format!("{name}: {address} {what}; {advice}"))
    })
}
