//! An open-loop load: requests leave at their times, whether or not earlier ones were answered, and
//! none is tried again. Prints one line of JSON when all are answered.
//!
//! `load RATE COUNT [--header 'NAME: VALUE'] URL...`: COUNT requests, RATE a second, to each URL in turn.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Seen {
    /// By status code, or by what went wrong.
    results: BTreeMap<String, u64>,
    milliseconds: Vec<f64>,
}

struct Wanted {
    rate: f64,
    count: usize,
    headers: HeaderMap,
    urls: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(wanted) = read(std::env::args().skip(1).collect()) else {
        eprintln!("usage: load RATE COUNT [--header 'NAME: VALUE'] URL...");
        return ExitCode::from(2);
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        .default_headers(wanted.headers)
        // A connection that was cut while it was idle is no request of ours: only requests count.
        .retry(reqwest::retry::never())
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            eprintln!("error: {}", innermost(&error));
            return ExitCode::FAILURE;
        }
    };
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / wanted.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    let begun = Instant::now();
    for i in 0..wanted.count {
        ticks.tick().await;
        let (client, seen) = (client.clone(), Arc::clone(&seen));
        let url = wanted.urls[i % wanted.urls.len()].clone();
        under_way.spawn(async move {
            let begun = Instant::now();
            let result = match client.get(&url).send().await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    match response.bytes().await {
                        Ok(_) => status.to_string(),
                        Err(error) => format!("body: {}", innermost(&error)),
                    }
                }
                Err(error) => innermost(&error),
            };
            let took = begun.elapsed().as_secs_f64() * 1e3;
            let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *seen.results.entry(result).or_default() += 1;
            seen.milliseconds.push(took);
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
    let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    seen.milliseconds.sort_by(f64::total_cmp);
    let at = |share: f64| seen.milliseconds.get(((wanted.count - 1) as f64 * share) as usize).copied();
    println!(
        "{}",
        json!({
            "sent": wanted.count, "seconds": begun.elapsed().as_secs_f64(), "results": seen.results,
            "p50": at(0.5), "p99": at(0.99), "max": at(1.0),
        })
    );
    ExitCode::SUCCESS
}

fn read(mut words: Vec<String>) -> Option<Wanted> {
    let mut headers = HeaderMap::new();
    while let Some(at) = words.iter().position(|word| word == "--header") {
        let value = words.drain(at..=at + 1).nth(1)?;
        let (name, value) = value.split_once(':')?;
        headers.insert(name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value.trim()).ok()?);
    }
    if words.len() < 3 {
        return None;
    }
    let urls = words.split_off(2);
    let (rate, count) = (words[0].parse().ok()?, words[1].parse().ok()?);
    (rate > 0.0 && count > 0).then_some(Wanted { rate, count, headers, urls })
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
