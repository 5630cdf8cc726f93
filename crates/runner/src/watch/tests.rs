//! Changes of files are reported once each, also of links and of files that replace others.

use std::io::Write;

use super::{pending::BURST, *};

async fn wait_for_change(watch: &mut FileWatch) -> Duration {
    let started = Instant::now();
    tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.expect("a change is reported");
    started.elapsed()
}

#[tokio::test]
async fn a_save_is_reported_whether_written_in_place_or_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.yaml");
    std::fs::write(&file, "a").unwrap();
    let mut watch = FileWatch::new(std::slice::from_ref(&file));
    std::fs::write(&file, "b").unwrap();
    wait_for_change(&mut watch).await;
    let temporary = folder.path().join(".fleet.yaml.swp");
    std::fs::write(&temporary, "c").unwrap();
    std::fs::rename(&temporary, &file).unwrap();
    wait_for_change(&mut watch).await;
    std::fs::remove_file(&file).unwrap();
    wait_for_change(&mut watch).await;
    std::fs::write(&file, "d").unwrap();
    wait_for_change(&mut watch).await;
}

#[tokio::test]
async fn a_change_of_a_mounted_config_map_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    for (version, text) in [("v1", "1"), ("v2", "2")] {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        std::fs::write(folder.path().join(version).join("policy.json"), text).unwrap();
    }
    let link = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink("v1", link("..data")).unwrap();
    std::os::unix::fs::symlink("..data/policy.json", link("policy.json")).unwrap();
    let mut watch = FileWatch::new(&[link("policy.json")]);
    std::os::unix::fs::symlink("v2", link("..data_tmp")).unwrap();
    std::fs::rename(link("..data_tmp"), link("..data")).unwrap();
    wait_for_change(&mut watch).await;
    assert_eq!(std::fs::read_to_string(link("policy.json")).unwrap(), "2");
}

#[tokio::test]
async fn a_file_is_reported_once_its_writer_has_closed_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.yaml");
    std::fs::write(&file, "whole").unwrap();
    let mut watch = FileWatch::new(std::slice::from_ref(&file));
    let mut writer = std::fs::File::create(&file).unwrap();
    writer.write_all(b"ha").unwrap();
    writer.flush().unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
    assert!(early.is_err(), "reported while it is being written");
    writer.write_all(b"lf, then whole").unwrap();
    drop(writer);
    wait_for_change(&mut watch).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "half, then whole");
}

/// A service was once stopped because its document had not been written yet.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_pausing_writer_is_reported_and_its_file_still_counts_as_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.yaml");
    std::fs::write(&file, "whole").unwrap();
    let mut watch = FileWatch::new(std::slice::from_ref(&file));
    let mut writer = std::fs::File::create(&file).unwrap();
    writer.write_all(b"half").unwrap();
    assert!(wait_for_change(&mut watch).await >= Duration::from_secs(1), "it may continue");
    assert!(watch.is_being_written());
    // The poll must not take the file for complete either.
    let _ = tokio::time::timeout(POLL + BURST, watch.changed()).await;
    assert!(watch.is_being_written());
    drop(writer);
    assert!(wait_for_change(&mut watch).await < Duration::from_secs(1));
    assert!(!watch.is_being_written());
}

#[tokio::test]
async fn a_write_without_events_counts_as_being_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.yaml");
    std::fs::write(&file, "whole").unwrap();
    let mut watch = FileWatch::new(std::slice::from_ref(&file));
    watch.watcher = None;
    std::fs::write(&file, "half").unwrap();
    wait_for_change(&mut watch).await;
    assert!(watch.is_being_written());
}

/// An open swap file of an editor would otherwise delay every report.
#[tokio::test]
async fn only_manifests_of_a_folder_are_watched() {
    let folder = tempfile::tempdir().unwrap();
    let mut watch = FileWatch::new(&[folder.path().to_owned()]);
    let others: Vec<_> = [".fleet.yaml.swp", ".fleet.yaml", "notes.txt"]
        .map(|name| std::fs::File::create(folder.path().join(name)).unwrap())
        .into();
    std::fs::write(folder.path().join("fleet.yaml"), "whole").unwrap();
    assert!(wait_for_change(&mut watch).await < Duration::from_secs(1));
    assert!(!watch.is_being_written());
    drop(others);
}

/// Regression: only the poll found such a change.
#[tokio::test]
async fn a_change_behind_a_link_is_reported_at_once_even_after_the_link_moved() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let link = folder.path().join("fleet.yaml");
    let target = |name: &str| elsewhere.path().join(name).join("fleet.yaml");
    for name in ["one", "two"] {
        std::fs::create_dir(elsewhere.path().join(name)).unwrap();
        std::fs::write(target(name), name).unwrap();
    }
    std::os::unix::fs::symlink(target("one"), &link).unwrap();
    let mut watch = FileWatch::new(std::slice::from_ref(&link));
    std::fs::write(target("one"), "changed").unwrap();
    assert!(wait_for_change(&mut watch).await < POLL / 2);
    let new = folder.path().join("new");
    std::os::unix::fs::symlink(target("two"), &new).unwrap();
    std::fs::rename(&new, &link).unwrap();
    assert!(wait_for_change(&mut watch).await < POLL / 2);
    std::fs::write(target("two"), "changed").unwrap();
    assert!(wait_for_change(&mut watch).await < POLL / 2);
}

/// An edit during a start of a service was once found by the poll only.
#[tokio::test]
async fn events_during_a_cancelled_wait_are_reported_by_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.yaml");
    std::fs::write(&file, "a").unwrap();
    let mut watch = FileWatch::new(std::slice::from_ref(&file));
    std::fs::write(&file, "b").unwrap();
    while !watch.pending.lock().has_unreported() {
        tokio::task::yield_now().await;
    }
    let cancelled = tokio::time::timeout(BURST / 4, watch.changed()).await;
    assert!(cancelled.is_err(), "the burst is not over");
    assert!(wait_for_change(&mut watch).await < POLL / 2);
}
