//! Whole requests over loopback: our stack beside a bare axum service, our gateway beside nginx, and our stack
//! with tracing beside itself without.
//!
//! The server that is measured has one core to itself, the load and the service behind the
//! gateway share another. `wrk` keeps 64 connections busy. Beside requests per second stands the
//! processor time per request, of which waking the other core is a part where that has nothing to do.

mod rival;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use self::rival::{Rival, body_size, nginx, proxying, wait_for};
use super::{Effort, Row, median};

const ROUNDS: usize = 9;
const SECONDS: u32 = 3;

/// What a policy says for answers to be kept.
const CACHED: &str = r#""cache":{"ttl":"1h"},"#;

/// A file with a policy that limits nobody, keeps answers if `cache` says so, and samples at this rate.
fn policy(folder: &Path, name: &str, cache: &str, sampled: f64) -> Result<PathBuf, String> {
    let path = folder.join(format!("{name}.json"));
    let text = format!(
        r#"{{"ownerUid":"bench","revision":1,"generation":1,"hash":"","publishedAt":"","policy":{{{cache}
        "rateLimit":{{"capacity":1000000,"refillPerSecond":1000000}},"tracing":{{"samplingRate":{sampled}}}}}}}"#
    );
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

pub(super) fn run(effort: Effort) -> Result<Vec<Row>, String> {
    let (rounds, seconds) = if effort == Effort::Measure { (ROUNDS, SECONDS) } else { (1, 1) };
    let folder = tempfolder()?;
    let program = |name: &str| effort.programs().join(name);
    let ports: Vec<u16> = free_ports(9)?;
    let &[hello, hit, upstream, proxy, gateway, caching_proxy, caching_gateway, traced, untraced] =
        ports.as_slice()
    else {
        return Err("no ports".into());
    };

    let behind = nginx(
        &folder,
        "upstream",
        1,
        &format!(
            "server {{ listen 127.0.0.1:{upstream}; location / {{ default_type application/json; return 200 '{{\"ok\":true,\"budget\":{{\"total\":100.0,\"used\":12.5,\"remaining\":87.5}}}}'; }} }}"
        ),
    )?;
    wait_for(upstream)?;
    let (cached, unsampled) =
        (policy(&folder, "cached", CACHED, 0.1)?, policy(&folder, "unsampled", CACHED, 0.0)?);
    let passing = policy(&folder, "passing", "", 0.1)?;
    let serve = |name: &str, port: u16, policy: &Path, more: &[&str]| {
        let mut command = Command::new(program("phase6"));
        command.args(["serve", name, "--port", &port.to_string(), "--policy"]).arg(policy);
        command.arg("--data").arg(folder.join(name)).args(more);
        command.env("OLLAMA_ENABLED", "false").env("LOCALAI_ENABLED", "false");
        command
    };
    let mut hit = Rival::start(serve("budget", hit, &cached, &[]), hit, "/api/v1/budget")?;
    let size = body_size(&hit.url)?;
    let mut bare = Command::new(program("hello"));
    bare.args([hello.to_string(), size.to_string()]);
    let mut bare = Rival::start(bare, hello, "/")?;
    let mut proxy = nginx(&folder, "proxy", 0, &proxying(upstream, proxy, "", ""))
        .and_then(|process| Rival::of_nginx(process, proxy, "/api/v1/budget"))?;
    let store = format!(
        "proxy_cache_path {} levels=1:2 keys_zone=answers:10m max_size=64m inactive=1h use_temp_path=off;
         open_file_cache max=1000 inactive=1h; sendfile on; tcp_nopush on;",
        folder.join("answers").display()
    );
    let cached_there =
        "proxy_cache answers; proxy_cache_valid 200 1h; add_header X-Cache $upstream_cache_status;";
    let mut caching_proxy =
        nginx(&folder, "caching", 0, &proxying(upstream, caching_proxy, &store, cached_there))
            .and_then(|process| Rival::of_nginx(process, caching_proxy, "/api/v1/budget"))?;
    let peer = ["--peer", &format!("budget=127.0.0.1:{upstream}")];
    let mut gateway = Rival::start(serve("web", gateway, &passing, &peer), gateway, "/api/v1/budget")?;
    let caching = serve("web", caching_gateway, &cached, &peer);
    let mut caching_gateway = Rival::start(caching, caching_gateway, "/api/v1/budget")?;
    // The same nginx takes spans: it answers whatever it is asked.
    let collector = ["--otlp", &format!("http://127.0.0.1:{upstream}")];
    let mut traced = Rival::start(serve("budget", traced, &cached, &collector), traced, "/api/v1/budget")?;
    let mut untraced = Rival::start(serve("budget", untraced, &unsampled, &[]), untraced, "/api/v1/budget")?;

    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for rival in [
            &mut bare,
            &mut hit,
            &mut proxy,
            &mut gateway,
            &mut caching_proxy,
            &mut caching_gateway,
            &mut traced,
            &mut untraced,
        ] {
            rival.measure(seconds)?;
        }
    }
    drop(behind);
    let rows = vec![
        row("The full stack on a cache hit, beside a bare axum hello", "at least 0.98", &hit, &bare, "hello"),
        row(
            "The gateway on a cache hit, beside nginx `proxy_cache` and `limit_req`",
            "at least 1.6",
            &caching_gateway,
            &caching_proxy,
            "nginx",
        ),
        row(
            "The gateway on a miss, beside nginx `proxy_pass` and `limit_req`",
            "at least 0.95",
            &gateway,
            &proxy,
            "nginx",
        ),
        share_of_tracing(&traced, &untraced)?,
    ];
    drop((bare, hit, proxy, gateway, caching_proxy, caching_gateway, traced, untraced));
    let _ = std::fs::remove_dir_all(folder);
    Ok(rows)
}

fn row(what: &'static str, goal: &'static str, ours: &Rival, other: &Rival, name: &str) -> Row {
    let ratios: Vec<f64> = ours.rounds.iter().zip(&other.rounds).map(|(a, b)| a.0 / b.0).collect();
    let column = |rival: &Rival, pick: fn(&(f64, f64)) -> f64| {
        median(&rival.rounds.iter().map(pick).collect::<Vec<_>>())
    };
    let (rate, cost) = (|round: &(f64, f64)| round.0, |round: &(f64, f64)| round.1);
    let mut sorted = ratios.clone();
    sorted.sort_by(f64::total_cmp);
    Row {
        what,
        goal,
        measured: format!("{:.2}", median(&ratios)),
        details: format!(
            "{:.0} requests/s beside {:.0} of {name}; {:.1} us of processor beside {:.1}; ratios of {} rounds from {:.2} to {:.2}",
            column(ours, rate),
            column(other, rate),
            column(ours, cost),
            column(other, cost),
            sorted.len(),
            sorted[0],
            sorted[sorted.len() - 1],
        ),
    }
}

/// How much more processor time a request takes when one in ten is sampled and exported.
fn share_of_tracing(traced: &Rival, untraced: &Rival) -> Result<Row, String> {
    let mut shares: Vec<f64> = traced
        .rounds
        .iter()
        .zip(&untraced.rounds)
        .map(|(with, without)| (with.1 / without.1 - 1.0) * 100.0)
        .collect();
    shares.sort_by(f64::total_cmp);
    let cost = |rival: &Rival| median(&rival.rounds.iter().map(|round| round.1).collect::<Vec<_>>());
    let exported = traced.series("phase6_spans_exported_total")?;
    let lost = traced.series("phase6_spans_dropped_total")?;
    Ok(Row {
        what: "One in ten requests sampled and exported, the full stack on a cache hit",
        goal: "at most 1 % more processor time",
        measured: format!("{:.1} %", median(&shares)),
        details: format!(
            "{:.2} us of processor beside {:.2}; {} rounds from {:.1} to {:.1} %; {exported} spans arrived, {lost} did not",
            cost(traced),
            cost(untraced),
            shares.len(),
            shares[0],
            shares[shares.len() - 1],
        ),
    })
}

pub(super) fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listeners: Result<Vec<_>, _> =
        (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect();
    let listeners = listeners.map_err(|error| error.to_string())?;
    listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

pub(super) fn tempfolder() -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("phase6-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    Ok(folder)
}
