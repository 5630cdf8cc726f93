//! The cache of model answers.

use std::time::Duration;

use phase6_budget::{
    model::{CacheKey, CachedAnswer, Criticality, Prompt, Task},
    store::AnswerCache,
};
use phase6_store::{Row, on_both_databases, sql, testing::Kind};

use crate::{NOON, acme, at, store};

fn key(text: &str) -> CacheKey {
    let prompt = Prompt { text: text.into(), system: None, max_tokens: 10 };
    CacheKey::new("tenant", &prompt, Task::General, Criticality::Normal, [].into_iter())
}

fn answer(text: &str) -> CachedAnswer {
    CachedAnswer { provider: "openai".into(), model: "m".into(), text: text.into() }
}

async fn an_answer_is_found_by_its_key_until_it_expires(kind: Kind) {
    let (store, _database) = store(kind).await;
    let cache = AnswerCache::new(store);
    for text in ["first", "second"] {
        cache.put(&acme(), &key("a"), answer(text), Duration::from_mins(1), at(NOON)).await.unwrap();
        assert_eq!(cache.get(&key("a"), at(NOON)).await.unwrap(), Some(answer(text)));
    }
    assert_eq!(cache.get(&key("b"), at(NOON)).await.unwrap(), None);
    assert!(cache.get(&key("a"), at("2026-11-24T12:00:59Z")).await.unwrap().is_some());
    assert_eq!(cache.get(&key("a"), at("2026-11-24T12:01:00Z")).await.unwrap(), None);
}

/// Regression: the answer caches of the original system grew without limit.
async fn a_sweep_leaves_the_ten_thousand_answers_that_expire_last(kind: Kind) {
    let (store, _database) = store(kind).await;
    let now = at(NOON).as_millisecond();
    // Twenty have expired, the last of them now.
    sql("INSERT INTO budget_answers (id, provider, model, answer, expires_ms)
         WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10030)
         SELECT 'answer ' || n, 'openai', 'm', 'yes', n - 20 + $1 FROM numbers")
    .bind(now)
    .run(&store)
    .await
    .unwrap();
    AnswerCache::new(store.clone()).sweep(at(NOON)).await.unwrap();
    let statement =
        "SELECT COUNT(*) AS answers, MIN(expires_ms) AS first, MAX(expires_ms) AS last FROM budget_answers";
    let row = sql(statement).first(&store).await.unwrap().unwrap();
    assert_eq!(row.get::<i64, _>("answers"), 10_000);
    assert_eq!(row.get::<i64, _>("first"), now + 11, "those that expire first are removed");
    assert_eq!(row.get::<i64, _>("last"), now + 10_010);
}

on_both_databases! {
    an_answer_is_found_by_its_key_until_it_expires,
    a_sweep_leaves_the_ten_thousand_answers_that_expire_last,
}
