//! The level on disk, behind the memory.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::Method;
use phase6_cache::{Disk, Invalidation};
use sqlx::Connection as _;

use crate::rig::{Reply, Rig, rig_over, until};

fn rig_on_disk(folder: &tempfile::TempDir, now_ms: u64) -> Rig {
    rig_over(Some(Arc::new(Disk::new(folder.path().join("cache.db"), 10_000_000))), now_ms)
}

fn written(rig: &Rig) -> u64 {
    rig.cache.stats().second_level.unwrap().writes
}

/// A plausible time, because the level forgets what is older than two days.
fn calendar_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test]
async fn entries_survive_a_restart_with_their_age() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let before = rig_on_disk(&folder, now);
    before.get("/a").await;
    until("it is on disk", || written(&before) == 1).await;
    before.cache.close().await;
    drop(before);
    let after = rig_on_disk(&folder, now + 4_000);
    let got = after.get("/a").await;
    assert_eq!((got.body.as_str(), got.header("age"), after.asked()), ("1 /a", "4", 0));
    assert!(got.header("cache-status").contains("second-level"));
    after.pass(7);
    assert_eq!(after.get("/a").await.body, "1 /a", "asked anew: the first answer of the new origin");
    assert_eq!(after.asked(), 1, "promotion does not make an entry younger");
}

/// Answers with `Vary` were in memory only, and an older one without came back in their place.
#[tokio::test]
async fn an_answer_that_varies_is_kept_on_disk_with_what_it_was_chosen_by() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let before = rig_on_disk(&folder, now);
    before.get_with("/a", "accept-language", "de").await;
    before.pass(1);
    before.reply(200, &[("vary", "accept-language")]);
    let mut reload = before.request(Method::GET, "/a");
    reload.headers_mut().insert("accept-language", "de".parse().unwrap());
    reload.headers_mut().insert("cache-control", "no-cache".parse().unwrap());
    assert_eq!(before.send(reload).await.body, "2 /a");
    until("both are on disk", || written(&before) == 2).await;
    before.cache.close().await;
    drop(before);
    let after = rig_on_disk(&folder, now + 2_000);
    after.reply(200, &[("vary", "accept-language")]);
    assert_eq!(after.get_with("/a", "accept-language", "de").await.body, "2 /a");
    assert_eq!(after.asked(), 0);
    assert_eq!(after.get_with("/a", "accept-language", "fr").await.body, "1 /a", "nobody made it before");
}

#[tokio::test]
async fn what_is_not_there_takes_no_place_on_disk_and_what_it_replaces_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let before = rig_on_disk(&folder, now);
    before.get("/a").await;
    before.pass(11);
    before.reply(404, &[]);
    assert_eq!(before.get("/a").await.status, 404);
    before.get("/b").await;
    until("all is carried out", || written(&before) == 3).await;
    assert_eq!(before.cache.stats().second_level.unwrap().entries, 0);
}

#[tokio::test]
async fn an_invalidated_entry_does_not_come_back_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let rig = rig_on_disk(&folder, now);
    rig.reply(200, &[("surrogate-key", "red")]);
    rig.get("/a/b").await;
    until("it is on disk", || written(&rig) == 1).await;
    rig.cache.invalidate(Invalidation::Tag("red".into()));
    assert_eq!(rig.get("/a/b").await.body, "2 /a/b", "although the disk may not have caught up");
    until("it is on disk again", || written(&rig) == 2).await;
    rig.get("/kept").await;
    let on_disk = || rig.cache.stats().second_level.unwrap().entries;
    until("both are on disk", || on_disk() == 2).await;
    rig.cache.invalidate(Invalidation::Prefix("/a".into()));
    until("one has left the disk", || on_disk() == 1).await;
    rig.cache.close().await;
    drop(rig);
    let after = rig_on_disk(&folder, now);
    assert_eq!(after.get("/kept").await.body, "3 /kept", "the disk is read");
    assert_eq!(after.get("/a/b").await.body, "1 /a/b", "the first answer of the new origin");
}

#[tokio::test]
async fn an_invalidation_just_before_a_stop_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let rig = rig_on_disk(&folder, now);
    rig.get("/a").await;
    until("it is on disk", || written(&rig) == 1).await;
    rig.cache.invalidate(Invalidation::Path("/a".into()));
    rig.cache.close().await;
    drop(rig);
    let after = rig_on_disk(&folder, now);
    after.get("/a").await;
    assert_eq!(after.asked(), 1);
}

#[tokio::test]
async fn a_file_that_was_not_closed_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let killed = rig_on_disk(&folder, now);
    killed.get("/a").await;
    until("it is on disk", || written(&killed) == 1).await;
    drop(killed);
    let after = rig_on_disk(&folder, now);
    after.get("/a").await;
    assert_eq!(after.asked(), 1);
}

/// The original's file names were shortened and lost what they could not hold.
#[tokio::test]
async fn keys_that_look_alike_or_are_long_are_kept_apart_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let long = format!("/{}", "x".repeat(3_998));
    let mut uris: Vec<_> =
        ["/a?b", "/a", "/a%3Fb", "/a/b", "/a?b=", "/A?b", "/hello%20world%3E"].map(str::to_owned).to_vec();
    uris.extend([format!("{long}1"), format!("{long}2")]);
    let before = rig_on_disk(&folder, now);
    for uri in &uris {
        before.get(uri).await;
    }
    until("all are on disk", || written(&before) == uris.len() as u64).await;
    before.cache.close().await;
    drop(before);
    let after = rig_on_disk(&folder, now);
    for uri in &uris {
        assert_eq!(after.get(uri).await.body.split(' ').nth(1), Some(uri.as_str()));
    }
    assert_eq!(after.asked(), 0);
}

/// The original wrote and compressed files inside the request.
#[tokio::test]
async fn nobody_waits_for_a_file_that_somebody_else_has_locked() {
    const AT_ONCE: Duration = Duration::from_millis(500);
    let folder = tempfile::tempdir().unwrap();
    let rig = rig_on_disk(&folder, calendar_ms());
    rig.get("/a").await;
    until("it is on disk", || written(&rig) == 1).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("cache.db"));
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let at_once = |uri| tokio::time::timeout(AT_ONCE, rig.get(uri));
    assert_eq!(at_once("/b").await.expect("a miss").body, "2 /b");
    assert_eq!(at_once("/b").await.expect("a hit on what cannot be written yet").body, "2 /b");
    let post = rig.send(rig.request(Method::POST, "/b"));
    tokio::time::timeout(AT_ONCE, post).await.expect("an unsafe request");
    assert_eq!(at_once("/a").await.expect("a hit").body, "1 /a");
    assert_eq!(written(&rig), 1, "the file is still locked");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_costs_the_cache_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cache.db"), b"this is no database at all, but it is long enough")
        .unwrap();
    let rig = rig_on_disk(&folder, calendar_ms());
    assert_eq!(rig.get("/a").await.body, "1 /a");
    until("it is on disk", || written(&rig) == 1).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_fails_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("not-a-folder");
    std::fs::write(&file, b"").unwrap();
    let behind: Option<Arc<dyn phase6_cache::Level>> =
        Some(Arc::new(Disk::new(file.join("cache.db"), 1_000)));
    let rig = rig_over(behind, calendar_ms());
    assert_eq!(rig.get("/a").await.body, "1 /a");
    assert_eq!(rig.get("/a").await.body, "1 /a");
    until("the failure is counted", || rig.cache.stats().second_level.unwrap().errors > 0).await;
}

#[tokio::test]
async fn values_keep_their_type_and_size_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let long: &'static str = Box::leak("x".repeat(5_000).into_boxed_str());
    let bodies = ["", "123", "null", "{\"a\":1}", long];
    let before = rig_on_disk(&folder, now);
    for (i, body) in bodies.iter().enumerate() {
        *before.origin.answer.lock().unwrap() =
            Reply { status: 200, headers: vec![("content-type", "text/plain")], body: Some(body) };
        before.get(&format!("/{i}")).await;
    }
    until("all are on disk", || written(&before) == bodies.len() as u64).await;
    before.cache.close().await;
    drop(before);
    let after = rig_on_disk(&folder, now);
    for (i, body) in bodies.iter().enumerate() {
        let got = after.get(&format!("/{i}")).await;
        assert_eq!(got.body, *body);
        assert_eq!(got.header("content-type"), "text/plain");
    }
    assert_eq!(after.asked(), 0);
}

#[tokio::test]
async fn the_file_stays_within_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    let behind: Option<Arc<dyn phase6_cache::Level>> =
        Some(Arc::new(Disk::new(folder.path().join("cache.db"), 50_000)));
    let rig = rig_over(behind, calendar_ms());
    for i in 0..300 {
        rig.now_ms.fetch_add(1, Ordering::SeqCst);
        rig.get(&format!("/{i}")).await;
        if i % 20 == 0 {
            until("the level caught up", || {
                let level = rig.cache.stats().second_level.unwrap();
                level.writes + level.dropped > i
            })
            .await;
        }
    }
    until("the level caught up", || {
        let level = rig.cache.stats().second_level.unwrap();
        level.writes + level.dropped == 300
    })
    .await;
    let level = rig.cache.stats().second_level.unwrap();
    assert!(level.bytes < 100_000, "{level:?}");
}
