//! The second level on disk.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::Method;
use phase6_cache::{Disk, Invalidation};
use sqlx::Connection as _;

use crate::harness::{Harness, OriginResponse, wait_until};

fn harness_on_disk(folder: &tempfile::TempDir, now_ms: u64) -> Harness {
    Harness::new(Some(Arc::new(Disk::new(folder.path().join("cache.db"), 10_000_000))), now_ms)
}

fn written(harness: &Harness) -> u64 {
    harness.cache.stats().second_level.unwrap().writes
}

/// Returns the calendar time: the level drops entries older than two days.
fn calendar_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test]
async fn entries_survive_a_restart_with_their_age() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let before = harness_on_disk(&folder, now);
    before.get("/a").await;
    wait_until("the response is on disk", || written(&before) == 1).await;
    before.cache.close().await;
    drop(before);
    let after = harness_on_disk(&folder, now + 4_000);
    let received = after.get("/a").await;
    assert_eq!((received.body.as_str(), received.header("age"), after.calls()), ("1 /a", "4", 0));
    assert!(received.header("cache-status").contains("second-level"));
    after.advance(7);
    assert_eq!(after.get("/a").await.body, "1 /a", "the first response of the new origin");
    assert_eq!(after.calls(), 1, "promotion does not reset the age");
}

/// Varying responses were once stored in memory only, and an older one without `Vary` was promoted in their
/// place.
#[tokio::test]
async fn a_varying_response_is_stored_on_disk_with_its_selecting_headers() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let before = harness_on_disk(&folder, now);
    before.get_with("/a", "accept-language", "de").await;
    before.advance(1);
    before.set_response(200, &[("vary", "accept-language")]);
    let mut reload = before.request(Method::GET, "/a");
    reload.headers_mut().insert("accept-language", "de".parse().unwrap());
    reload.headers_mut().insert("cache-control", "no-cache".parse().unwrap());
    assert_eq!(before.send(reload).await.body, "2 /a");
    wait_until("both responses are on disk", || written(&before) == 2).await;
    before.cache.close().await;
    drop(before);
    let after = harness_on_disk(&folder, now + 2_000);
    after.set_response(200, &[("vary", "accept-language")]);
    assert_eq!(after.get_with("/a", "accept-language", "de").await.body, "2 /a");
    assert_eq!(after.calls(), 0);
    assert_eq!(
        after.get_with("/a", "accept-language", "fr").await.body,
        "1 /a",
        "no response for this value is stored"
    );
}

#[tokio::test]
async fn a_negative_response_is_not_stored_on_disk_and_removes_the_one_it_replaces() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let before = harness_on_disk(&folder, now);
    before.get("/a").await;
    before.advance(11);
    before.set_response(404, &[]);
    assert_eq!(before.get("/a").await.status, 404);
    before.get("/b").await;
    wait_until("all changes are applied", || written(&before) == 3).await;
    assert_eq!(before.cache.stats().second_level.unwrap().entries, 0);
}

#[tokio::test]
async fn an_invalidated_entry_does_not_come_back_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let harness = harness_on_disk(&folder, now);
    harness.set_response(200, &[("surrogate-key", "red")]);
    harness.get("/a/b").await;
    wait_until("the response is on disk", || written(&harness) == 1).await;
    harness.cache.invalidate(Invalidation::Tag("red".into()));
    assert_eq!(harness.get("/a/b").await.body, "2 /a/b", "even if the disk lags behind");
    wait_until("the second response is on disk", || written(&harness) == 2).await;
    harness.get("/other").await;
    let on_disk = || harness.cache.stats().second_level.unwrap().entries;
    wait_until("both responses are on disk", || on_disk() == 2).await;
    harness.cache.invalidate(Invalidation::Prefix("/a".into()));
    wait_until("one response has been removed from disk", || on_disk() == 1).await;
    harness.cache.close().await;
    drop(harness);
    let after = harness_on_disk(&folder, now);
    assert_eq!(after.get("/other").await.body, "3 /other", "the response comes from disk");
    assert_eq!(after.get("/a/b").await.body, "1 /a/b", "the first response of the new origin");
}

#[tokio::test]
async fn an_invalidation_just_before_a_stop_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let harness = harness_on_disk(&folder, now);
    harness.get("/a").await;
    wait_until("the response is on disk", || written(&harness) == 1).await;
    harness.cache.invalidate(Invalidation::Path("/a".into()));
    harness.cache.close().await;
    drop(harness);
    let after = harness_on_disk(&folder, now);
    after.get("/a").await;
    assert_eq!(after.calls(), 1);
}

#[tokio::test]
async fn a_file_that_was_not_closed_is_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let killed = harness_on_disk(&folder, now);
    killed.get("/a").await;
    wait_until("the response is on disk", || written(&killed) == 1).await;
    drop(killed);
    let after = harness_on_disk(&folder, now);
    after.get("/a").await;
    assert_eq!(after.calls(), 1);
}

/// The original system shortened file names, so that different keys shared one file.
#[tokio::test]
async fn similar_and_long_keys_stay_distinct_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let long_path = format!("/{}", "x".repeat(3_998));
    let mut uris: Vec<_> =
        ["/a?b", "/a", "/a%3Fb", "/a/b", "/a?b=", "/A?b", "/hello%20world%3E"].map(str::to_owned).to_vec();
    uris.extend([format!("{long_path}1"), format!("{long_path}2")]);
    let before = harness_on_disk(&folder, now);
    for uri in &uris {
        before.get(uri).await;
    }
    wait_until("all responses are on disk", || written(&before) == uris.len() as u64).await;
    before.cache.close().await;
    drop(before);
    let after = harness_on_disk(&folder, now);
    for uri in &uris {
        assert_eq!(after.get(uri).await.body.split(' ').nth(1), Some(uri.as_str()));
    }
    assert_eq!(after.calls(), 0);
}

/// The original system wrote and compressed files inside the request.
#[tokio::test]
async fn no_request_waits_for_a_file_locked_by_another_process() {
    const AT_ONCE: Duration = Duration::from_millis(500);
    let folder = tempfile::tempdir().unwrap();
    let harness = harness_on_disk(&folder, calendar_ms());
    harness.get("/a").await;
    wait_until("the response is on disk", || written(&harness) == 1).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("cache.db"));
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let at_once = |uri| tokio::time::timeout(AT_ONCE, harness.get(uri));
    assert_eq!(at_once("/b").await.expect("a miss").body, "2 /b");
    assert_eq!(at_once("/b").await.expect("a hit on a response that is not written yet").body, "2 /b");
    let post = harness.send(harness.request(Method::POST, "/b"));
    tokio::time::timeout(AT_ONCE, post).await.expect("an unsafe request");
    assert_eq!(at_once("/a").await.expect("a hit").body, "1 /a");
    assert_eq!(written(&harness), 1, "the file is still locked");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("cache.db"),
        b"this is not a database, but it is long enough to look like one",
    )
    .unwrap();
    let harness = harness_on_disk(&folder, calendar_ms());
    assert_eq!(harness.get("/a").await.body, "1 /a");
    wait_until("the response is on disk", || written(&harness) == 1).await;
}

#[tokio::test]
async fn an_unwritable_folder_fails_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("not-a-folder");
    std::fs::write(&file, b"").unwrap();
    let second_level: Option<Arc<dyn phase6_cache::Level>> =
        Some(Arc::new(Disk::new(file.join("cache.db"), 1_000)));
    let harness = Harness::new(second_level, calendar_ms());
    assert_eq!(harness.get("/a").await.body, "1 /a");
    assert_eq!(harness.get("/a").await.body, "1 /a");
    wait_until("the failure has been counted", || harness.cache.stats().second_level.unwrap().errors > 0)
        .await;
}

#[tokio::test]
async fn bodies_and_content_types_are_unchanged_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let long_body: &'static str = Box::leak("x".repeat(5_000).into_boxed_str());
    let bodies = ["", "123", "null", "{\"a\":1}", long_body];
    let before = harness_on_disk(&folder, now);
    for (i, body) in bodies.iter().enumerate() {
        *before.origin.response.lock().unwrap() =
            OriginResponse { status: 200, headers: vec![("content-type", "text/plain")], body: Some(body) };
        before.get(&format!("/{i}")).await;
    }
    wait_until("all responses are on disk", || written(&before) == bodies.len() as u64).await;
    before.cache.close().await;
    drop(before);
    let after = harness_on_disk(&folder, now);
    for (i, body) in bodies.iter().enumerate() {
        let received = after.get(&format!("/{i}")).await;
        assert_eq!(received.body, *body);
        assert_eq!(received.header("content-type"), "text/plain");
    }
    assert_eq!(after.calls(), 0);
}

#[tokio::test]
async fn the_file_stays_within_its_size_limit() {
    let folder = tempfile::tempdir().unwrap();
    let second_level: Option<Arc<dyn phase6_cache::Level>> =
        Some(Arc::new(Disk::new(folder.path().join("cache.db"), 50_000)));
    let harness = Harness::new(second_level, calendar_ms());
    for i in 0..300 {
        harness.now_ms.fetch_add(1, Ordering::SeqCst);
        harness.get(&format!("/{i}")).await;
        if i % 20 == 0 {
            wait_until("the level has caught up", || {
                let level = harness.cache.stats().second_level.unwrap();
                level.writes + level.dropped > i
            })
            .await;
        }
    }
    wait_until("the level has caught up", || {
        let level = harness.cache.stats().second_level.unwrap();
        level.writes + level.dropped == 300
    })
    .await;
    let level = harness.cache.stats().second_level.unwrap();
    assert!(level.bytes < 100_000, "{level:?}");
}
