//! `phase6 keys`: creates, lists and revokes API keys, of a running fleet or in a key file.
//!
//! A key file serves fleets without a shared database, and the first key of a fleet that other machines can reach.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use http::Method;
use phase6_chassis::{
    Principal,
    identity::{ApiKey, KeyFile, KeyId},
};
use phase6_runner::{RunError, output::print, table::Table};
use serde_json::{Value, json};

use crate::{
    args::{CreateKey, Fleet, Keys, ListKeys, RevokeKey},
    fleet_client::{Call, CallFailure},
};

/// Number of keys that one request lists.
const PAGE: u32 = 200;

pub(crate) async fn run(command: Keys) -> Result<(), RunError> {
    match command {
        Keys::Create(options) => create(options).await,
        Keys::List(options) => list(options).await,
        Keys::Revoke(options) => revoke(options).await,
    }
}

async fn create(options: CreateKey) -> Result<(), RunError> {
    let principal = principal(&options)?;
    let Some(path) = &options.place.file else {
        let Principal { tenant, subject, role } = &principal;
        let body = json!({"tenant": tenant.as_str(), "name": subject.as_str(), "role": role.as_str()});
        let created = options.place.fleet.send(Method::POST, "/api/v1/keys", Some(body)).await?;
        let text = |field: &str| created[field].as_str().unwrap_or_default().to_owned();
        return print(format_args!("id:  {}\nkey: {}", text("id"), text("key")));
    };
    let key = ApiKey::random();
    let _lock = lock(path)?;
    let mut file = read(path)?.unwrap_or_default();
    file.add(principal, key.digest());
    write(path, &file)?;
    print(format_args!("id:  {}\nkey: {}", key.digest().id(), key.secret()))
}

async fn list(options: ListKeys) -> Result<(), RunError> {
    let mut table = Table::new(&["ID", "TENANT", "NAME", "ROLE", "CREATED", "SOURCE"]);
    if let Some(path) = &options.place.file {
        for (digest, principal) in existing(path)?.keys() {
            let Principal { tenant, subject, role } = principal;
            let [none, source] = ["-", "file"].map(str::to_owned);
            let row = [digest.id().to_string(), tenant.to_string(), subject.to_string(), role.to_string()];
            let [id, tenant, subject, role] = row;
            table.row([id, tenant, subject, role, none, source]);
        }
        return print(table);
    }
    let mut cursor = None;
    loop {
        let following = cursor.map(|cursor: String| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("/api/v1/keys?limit={PAGE}{following}");
        let page = options.place.fleet.send(Method::GET, &path, None).await?;
        for item in page["items"].as_array().into_iter().flatten() {
            let text = |field: &str| item[field].as_str().unwrap_or("-").to_owned();
            table.row(["id", "tenant", "name", "role", "created", "source"].map(text));
        }
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return print(table);
        }
    }
}

async fn revoke(options: RevokeKey) -> Result<(), RunError> {
    let id = &options.id;
    let is_id = id.starts_with("key_") && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_id {
        let accepted = "an ID as `phase6 keys list` shows it";
        return Err(RunError::Usage(format!("ID is {id:?}; accepted: {accepted}")));
    }
    if let Some(path) = &options.place.file {
        let _lock = lock(path)?;
        let mut file = existing(path)?;
        if !file.remove(&KeyId::from(id.clone())) {
            return Err(RunError::Failed(format!("{} has no key with the ID {id}", path.display())));
        }
        write(path, &file)?;
    } else {
        options.place.fleet.send(Method::DELETE, &format!("/api/v1/keys/{id}"), None).await?;
    }
    print(format_args!("revoked {id}"))
}

/// Checks the values of a key to create.
fn principal(options: &CreateKey) -> Result<Principal, RunError> {
    let invalid = |option: &str, error: &dyn std::error::Error| RunError::Usage(format!("{option}: {error}"));
    let principal = Principal {
        tenant: options.tenant.parse().map_err(|error| invalid("--tenant", &error))?,
        subject: options.name.parse().map_err(|error| invalid("NAME", &error))?,
        role: options.role.parse().map_err(|error| invalid("--role", &error))?,
    };
    if principal.is_anonymous() {
        let message = "NAME is \"anonymous\", which is reserved for callers without credentials";
        return Err(RunError::Usage(message.to_owned()));
    }
    Ok(principal)
}

impl Fleet {
    /// Sends a request to the first targeted service that runs: all of them manage the same keys.
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, RunError> {
        let call = Call { method, path: path.to_owned(), body: body.map(|body| body.to_string()) };
        let services = self.target.services()?;
        for service in &services {
            match self.credentials.send(&self.target.upstream(service, &self.credentials), call.clone()).await
            {
                Ok(response) => return Ok(response),
                Err(CallFailure::NotRunning) => {}
                Err(CallFailure::Other(text)) => {
                    let address = self.target.address(service);
                    return Err(RunError::Failed(format!("{} at {address}: {text}", service.name)));
                }
            }
        }
        let address = services.first().map(|service| self.target.address(service));
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        Err(RunError::Failed(format!(
            "no service is running at {address} or the other addresses of the fleet; start one with `phase6 up`, \
             or name a key file with --file FILE"
        )))
    }
}

/// Reads a key file; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<KeyFile>, RunError> {
    let failed = |error: &dyn std::error::Error| RunError::Failed(format!("{}: {error}", path.display()));
    match std::fs::read_to_string(path) {
        Ok(text) => KeyFile::parse(&text).map(Some).map_err(|error| failed(&error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}

fn existing(path: &Path) -> Result<KeyFile, RunError> {
    read(path)?.ok_or_else(|| RunError::Failed(format!("{} does not exist", path.display())))
}

/// Replaces a key file at once: a process that follows it never reads half of it. The file keeps its owner and its
/// permissions, by which that process may read it.
fn write(path: &Path, file: &KeyFile) -> Result<(), RunError> {
    let failed =
        |error: std::io::Error| RunError::Failed(format!("cannot write {}: {error}", path.display()));
    // A link remains one.
    let path = if path.exists() { path.canonicalize().map_err(failed)? } else { path.to_owned() };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{:016x}", rand::random::<u64>()));
    let temporary = Path::new(&name);
    let write = || -> std::io::Result<()> {
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
        new.write_all(file.text().as_bytes())?;
        if let Ok(before) = std::fs::metadata(&path) {
            std::os::unix::fs::chown(temporary, Some(before.uid()), Some(before.gid()))?;
            std::fs::set_permissions(temporary, before.permissions())?;
        }
        std::fs::rename(temporary, &path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(temporary);
        failed(error)
    })
}

/// Locks the folder of a key file until the value is dropped, so that of two commands at the same time none undoes
/// the change of the other.
fn lock(path: &Path) -> Result<File, RunError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let lock = File::open(folder).and_then(|folder| folder.lock().map(|()| folder));
    lock.map_err(|error| RunError::Failed(format!("cannot lock {}: {error}", folder.display())))
}
