//! Doors for `fuzz/`, there only with `--cfg fuzzing`: what reads Redis' replies, without a Redis.

use std::sync::LazyLock;

use phase6_redis::{FromRedisValue, Value};
use tokio::runtime::{Builder, Runtime};

use super::{
    history::{History, Place},
    look::Told,
    stored::{self, Logged, Said, logged},
};
use crate::{Entry, Key};

/// The answer in a reply of `read.lua`, and where the log was when its making began.
pub fn looked(reply: Value, key: &Key, now_ms: u64) -> Option<(Entry, u64)> {
    let (bytes, left_ms, _, _) = Told::from_redis_value(reply).ok()?;
    let (entry, Place(place)) = waited(stored::read(bytes?, key, u64::try_from(left_ms).ok()?, now_ms))?;
    Some((entry, place))
}

/// An answer as bytes.
pub fn written(entry: &Entry, place: u64, kept: std::time::Duration) -> Vec<u8> {
    waited(stored::write(entry, Place(place), kept))
}

/// What an answer is called.
pub fn name(key: &Key) -> String {
    stored::name(key)
}

/// Whether news of the log mean an answer that is older than all of them: as its history remembers it, and
/// as each of them says by itself.
pub fn forgotten(reply: Value, entry: &Entry) -> Option<(bool, bool)> {
    let news = Vec::<Logged>::from_redis_value(reply).ok()?;
    let mut history = History::default();
    history.begin(Place(1));
    let mut meant = false;
    for news in &news {
        let Some((place, _, said)) = logged(news) else { continue };
        assert!(place.to_string().parse() == Ok(place), "a place is read as it is written");
        assert_eq!(Said::from(said.to_string().as_str()), said, "it is understood as it is said");
        // As the follower takes it: its clock does not step back.
        let place = place.max(history.at());
        meant |= place > Place(1) && said.forgotten().is_some_and(|what| what.means(entry));
        history.push(place, said.forgotten().cloned());
    }
    Some((history.has_forgotten(Place(1), entry), meant))
}

/// Large bodies are packed and unpacked beside the async threads.
fn waited<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| Builder::new_current_thread().build().expect("nothing that could be missing"));
    RUNTIME.block_on(work)
}
