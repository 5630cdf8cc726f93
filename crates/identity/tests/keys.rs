//! API keys in a key file and on SQLite and PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::Duration;

use jiff::Timestamp;
use phase6_identity::{
    ApiKey, Authentication, ChangeKeysError, Digest, KeyFile, KeyId, KeySource, Keys, KeysConfig, Name,
    NewKey, OpenKeysError, Principal, Role,
};
use phase6_store::testing::{Kind, TestDatabase};
use tokio_util::sync::CancellationToken;

phase6_store::on_both_databases!(
    everybody_is_anonymous_until_the_first_key,
    a_key_acts_in_every_process_and_a_revoked_one_in_none,
    a_fleet_that_had_keys_never_opens_again,
    a_key_is_revoked_only_within_its_tenant,
    concurrent_changes_are_all_read,
);

fn principal(tenant: &str, subject: &str, role: Role) -> Principal {
    Principal { tenant: tenant.parse().unwrap(), subject: subject.parse().unwrap(), role }
}

fn new(principal: &Principal) -> NewKey {
    NewKey { principal: principal.clone(), now: Timestamp::UNIX_EPOCH }
}

/// Opens the keys of a fleet that has its first one.
async fn open_closed(database: &TestDatabase) -> Keys {
    let keys = open(database).await;
    keys.create(new(&principal("default", "operator", Role::Admin))).await.unwrap();
    keys
}

async fn open(database: &TestDatabase) -> Keys {
    let config = KeysConfig { database: Some(database.url.clone()), ..KeysConfig::default() };
    Keys::open(config, Duration::ZERO).await.unwrap()
}

/// Returns the result for a key.
fn authenticate(keys: &Keys, key: &ApiKey) -> Authentication {
    keys.authenticate(Some(key.secret().as_bytes()))
}

/// Opens the keys of another process, which follows the changes until the guard is dropped.
async fn follower(database: &TestDatabase) -> (Keys, impl Drop) {
    let keys = open(database).await;
    let stop = CancellationToken::new();
    tokio::spawn(keys.clone().follow(stop.clone()));
    (keys, stop.drop_guard())
}

async fn wait_until(description: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect(description);
}

async fn everybody_is_anonymous_until_the_first_key(kind: Kind) {
    let database = TestDatabase::create(kind).await;
    let keys = open(&database).await;
    let anonymous = Authentication::Principal(Principal::anonymous());
    assert_eq!(keys.authenticate(None), anonymous);
    assert_eq!(keys.authenticate(Some(b"any key")), anonymous);
    for locked_out in [principal("acme", "ada", Role::Admin), principal("default", "ada", Role::Service)] {
        assert!(matches!(keys.create(new(&locked_out)).await, Err(ChangeKeysError::FirstKey)));
    }
    let ada = principal("default", "ada", Role::Admin);
    let (id, key) = keys.create(new(&ada)).await.unwrap();
    assert_eq!(keys.authenticate(None), Authentication::Rejected);
    assert_eq!(keys.authenticate(Some(b"any key")), Authentication::Rejected);
    assert_eq!(authenticate(&keys, &key), Authentication::Principal(ada.clone()));
    let [listed] = &keys.list(None)[..] else { panic!("one key") };
    assert_eq!((&listed.id, &listed.principal, listed.source), (&id, &ada, KeySource::Database));
    assert_eq!(listed.created, Some(Timestamp::UNIX_EPOCH));
}

async fn a_key_acts_in_every_process_and_a_revoked_one_in_none(kind: Kind) {
    let database = TestDatabase::create(kind).await;
    let keys = open_closed(&database).await;
    let (other, _following) = follower(&database).await;
    let ada = principal("acme", "ada", Role::Reader);
    let (id, key) = keys.create(new(&ada)).await.unwrap();
    let accepted = Authentication::Principal(ada);
    wait_until("the key is known to the other process", || authenticate(&other, &key) == accepted).await;
    assert!(keys.revoke(&id, None, Timestamp::UNIX_EPOCH).await.unwrap());
    assert!(!keys.revoke(&id, None, Timestamp::UNIX_EPOCH).await.unwrap(), "it is revoked already");
    assert_eq!(authenticate(&keys, &key), Authentication::Rejected, "at once in this process");
    wait_until("the key is revoked in the other process", || {
        authenticate(&other, &key) == Authentication::Rejected
    })
    .await;
}

async fn a_fleet_that_had_keys_never_opens_again(kind: Kind) {
    let database = TestDatabase::create(kind).await;
    let keys = open(&database).await;
    let (id, _) = keys.create(new(&principal("default", "ada", Role::Admin))).await.unwrap();
    keys.revoke(&id, None, Timestamp::UNIX_EPOCH).await.unwrap();
    for keys in [keys, open(&database).await] {
        assert!(keys.is_empty());
        assert_eq!(keys.authenticate(None), Authentication::Rejected);
    }
}

async fn a_key_is_revoked_only_within_its_tenant(kind: Kind) {
    let database = TestDatabase::create(kind).await;
    let keys = open_closed(&database).await;
    let ada = principal("acme", "ada", Role::Member);
    let (id, key) = keys.create(new(&ada)).await.unwrap();
    let other: Name = "other".parse().unwrap();
    assert!(!keys.revoke(&id, Some(&other), Timestamp::UNIX_EPOCH).await.unwrap());
    assert_eq!(authenticate(&keys, &key), Authentication::Principal(ada.clone()));
    assert!(keys.list(Some(&other)).is_empty());
    assert_eq!(keys.list(Some(&ada.tenant)).len(), 1);
    assert!(keys.revoke(&id, Some(&ada.tenant), Timestamp::UNIX_EPOCH).await.unwrap());
}

async fn concurrent_changes_are_all_read(kind: Kind) {
    let database = TestDatabase::create(kind).await;
    let processes = [open_closed(&database).await, open(&database).await];
    let (other, _following) = follower(&database).await;
    let mut changes = tokio::task::JoinSet::new();
    for number in 0..20 {
        let keys = processes[number % 2].clone();
        changes.spawn(async move {
            let (id, key) =
                keys.create(new(&principal("acme", &format!("n{number}"), Role::Reader))).await.unwrap();
            if number < 10 {
                assert!(keys.revoke(&id, None, Timestamp::UNIX_EPOCH).await.unwrap());
            }
            (number, key)
        });
    }
    let created = changes.join_all().await;
    for (number, key) in created {
        wait_until("the other process has read all changes", || {
            matches!(authenticate(&other, &key), Authentication::Principal(_)) == (number >= 10)
        })
        .await;
    }
}

/// A key file with these lines, and the keys of a process that reads it.
async fn key_file(text: &str) -> (tempfile::TempDir, Keys) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, text).unwrap();
    let config = KeysConfig { file: Some(path), ..KeysConfig::default() };
    (folder, Keys::open(config, Duration::ZERO).await.unwrap())
}

#[tokio::test]
async fn a_change_of_the_key_file_acts_without_a_restart() {
    let ada = principal("acme", "ada", Role::Admin);
    let (first, second) = (ApiKey::random(), ApiKey::random());
    let line = |key: &ApiKey| KeyFile::line(&ada, key.digest());
    let (folder, keys) = key_file(&line(&first)).await;
    let accepted = Authentication::Principal(ada.clone());
    assert_eq!(authenticate(&keys, &first), accepted);
    let path = folder.path().join("keys");
    std::fs::write(&path, line(&second)).unwrap();
    keys.refresh().await;
    assert_eq!(authenticate(&keys, &second), accepted);
    assert_eq!(authenticate(&keys, &first), Authentication::Rejected);
    std::fs::write(&path, "not a key").unwrap();
    keys.refresh().await;
    assert_eq!(authenticate(&keys, &second), accepted, "the last valid keys remain");
    std::fs::remove_file(&path).unwrap();
    keys.refresh().await;
    assert_eq!(authenticate(&keys, &second), accepted, "the last valid keys remain");
    std::fs::write(&path, "").unwrap();
    keys.refresh().await;
    assert_eq!(authenticate(&keys, &second), Authentication::Rejected);
    assert_eq!(keys.authenticate(None), Authentication::Rejected, "an emptied file does not open the fleet");
}

#[tokio::test]
async fn keys_of_the_file_cannot_be_changed_by_a_process() {
    let ada = principal("acme", "ada", Role::Admin);
    let key = ApiKey::random();
    let (_folder, keys) = key_file(&KeyFile::line(&ada, key.digest())).await;
    let id: KeyId = key.digest().id();
    let revoked = keys.revoke(&id, None, Timestamp::UNIX_EPOCH).await;
    assert!(matches!(revoked, Err(ChangeKeysError::InFile(in_file)) if in_file == id));
    assert!(matches!(keys.create(new(&ada)).await, Err(ChangeKeysError::NoDatabase)));
}

#[tokio::test]
async fn a_process_that_others_reach_requires_keys_even_if_none_exists() {
    let config = KeysConfig { always_required: true, ..KeysConfig::default() };
    let keys = Keys::open(config, Duration::ZERO).await.unwrap();
    assert_eq!(keys.authenticate(None), Authentication::Rejected);
}

#[tokio::test]
async fn an_unreachable_database_stops_only_processes_without_a_key_file() {
    let database = Some("postgres://nobody@127.0.0.1:1/none".parse().unwrap());
    let config = KeysConfig { database: database.clone(), ..KeysConfig::default() };
    let error = Keys::open(config, Duration::ZERO).await.err();
    assert!(matches!(error, Some(OpenKeysError::Store { .. })), "{error:?}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let ada = principal("acme", "ada", Role::Admin);
    std::fs::write(&path, KeyFile::line(&ada, Digest::of(b"a key"))).unwrap();
    let config = KeysConfig { file: Some(path), database, always_required: false };
    let keys = Keys::open(config, Duration::ZERO).await.unwrap();
    assert_eq!(keys.authenticate(Some(b"a key")), Authentication::Principal(ada));
    assert_eq!(keys.authenticate(Some(b"perhaps in the database")), Authentication::Unavailable);
    assert_eq!(keys.authenticate(None), Authentication::Rejected);
}
