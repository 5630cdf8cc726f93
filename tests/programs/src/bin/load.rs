//! An open-loop load generator: requests are sent at their times, whether or not earlier ones have completed,
//! and none is retried. Prints one line of JSON when all have completed.
//!
//! `load RATE COUNT [--header 'NAME: VALUE'] URL...` sends COUNT requests, RATE per second, to each URL in turn.

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

/// Longest time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Results {
    /// Number of requests by status code, or by the kind of failure.
    counts: BTreeMap<String, u64>,
    milliseconds: Vec<f64>,
}

/// Arguments of the command line.
struct Arguments {
    /// Requests per second.
    rate: f64,
    count: usize,
    headers: HeaderMap,
    urls: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1).collect()) else {
        eprintln!("usage: load RATE COUNT [--header 'NAME: VALUE'] URL...");
        return ExitCode::from(2);
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(REQUEST_TIMEOUT)
        .no_proxy()
        .default_headers(arguments.headers)
        // A retry would hide a request that the server lost.
        .retry(reqwest::retry::never())
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            eprintln!("error: {}", root_cause(&error));
            return ExitCode::FAILURE;
        }
    };
    let results = Arc::new(Mutex::new(Results::default()));
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / arguments.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut in_flight = JoinSet::new();
    let start = Instant::now();
    for i in 0..arguments.count {
        ticks.tick().await;
        let (client, results) = (client.clone(), Arc::clone(&results));
        let url = arguments.urls[i % arguments.urls.len()].clone();
        in_flight.spawn(async move {
            let start = Instant::now();
            let result = match client.get(&url).send().await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    match response.bytes().await {
                        Ok(_) => status.to_string(),
                        Err(error) => format!("body: {}", root_cause(&error)),
                    }
                }
                Err(error) => root_cause(&error),
            };
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *results.counts.entry(result).or_default() += 1;
            results.milliseconds.push(milliseconds);
        });
        while in_flight.try_join_next().is_some() {}
    }
    while in_flight.join_next().await.is_some() {}
    let mut results = results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.milliseconds.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let index = ((arguments.count - 1) as f64 * share) as usize;
        results.milliseconds.get(index).copied()
    };
    println!(
        "{}",
        json!({
            "sent": arguments.count, "seconds": start.elapsed().as_secs_f64(), "results": results.counts,
            "p50": quantile(0.5), "p99": quantile(0.99), "max": quantile(1.0),
        })
    );
    ExitCode::SUCCESS
}

fn parse(mut words: Vec<String>) -> Option<Arguments> {
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
    (rate > 0.0 && count > 0).then_some(Arguments { rate, count, headers, urls })
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
