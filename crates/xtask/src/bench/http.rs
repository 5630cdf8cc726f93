//! Whole requests over loopback: our stack compared with a bare axum service, our gateway with nginx, and our
//! stack with tracing with itself without.
//!
//! The measured server has one core to itself; the load and the service behind the gateway share another one.
//! `wrk` keeps 64 connections busy. Besides requests per second the processor time per request is measured. It
//! contains the wake-up of the other core when that is idle.

mod server;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use self::server::{Round, Server, body_size, nginx, reverse_proxy, wait_for};
use super::{Effort, Row, median};

const ROUNDS: usize = 9;
/// Duration of a round in seconds.
const SECONDS: u32 = 3;
const PATH: &str = "/api/v1/budget";
/// Body of the responses of the service behind the gateways.
const BODY: &str = r#"{"ok":true,"budget":{"total":100.0,"used":12.5,"remaining":87.5}}"#;

/// Section of a policy that turns the cache on.
const CACHED: &str = r#""cache":{"ttl":"1h"},"#;
/// Section of a policy without a cache.
const UNCACHED: &str = "";

/// Writes a policy whose limit refuses no request.
fn policy(folder: &Path, name: &str, cache: &str, sampling_rate: f64) -> Result<PathBuf, String> {
    let path = folder.join(format!("{name}.json"));
    let text = format!(
        r#"{{"ownerUid":"bench","revision":1,"generation":1,"hash":"","publishedAt":"","policy":{{{cache}
        "rateLimit":{{"capacity":1000000,"refillPerSecond":1000000}},"tracing":{{"samplingRate":{sampling_rate}}}}}}}"#
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
        return Err("no free ports".into());
    };

    let location = format!("location / {{ default_type application/json; return 200 '{BODY}'; }}");
    let servers = format!("server {{ listen 127.0.0.1:{upstream}; {location} }}");
    let upstream_process = nginx(&folder, "upstream", 1, &servers)?;
    wait_for(upstream)?;
    let cached = policy(&folder, "cached", CACHED, 0.1)?;
    let unsampled = policy(&folder, "unsampled", CACHED, 0.0)?;
    let uncached = policy(&folder, "uncached", UNCACHED, 0.1)?;
    let serve = |name: &str, port: u16, policy: &Path, options: &[&str]| {
        let mut command = Command::new(program("phase6"));
        command.args(["serve", name, "--port", &port.to_string(), "--policy"]).arg(policy);
        command.arg("--data").arg(folder.join(name)).args(options);
        command.env("OLLAMA_ENABLED", "false").env("LOCALAI_ENABLED", "false");
        command
    };
    let mut hit = Server::start(serve("budget", hit, &cached, &[]), hit, PATH)?;
    let size = body_size(&hit.url)?;
    let mut bare = Command::new(program("hello"));
    bare.args([hello.to_string(), size.to_string()]);
    let mut bare = Server::start(bare, hello, "/")?;
    let mut proxy = nginx(&folder, "proxy", 0, &reverse_proxy(upstream, proxy, "", ""))
        .and_then(|process| Server::of_nginx(process, proxy, PATH))?;
    let cache_storage = format!(
        "proxy_cache_path {} levels=1:2 keys_zone=responses:10m max_size=64m inactive=1h use_temp_path=off;
         open_file_cache max=1000 inactive=1h; sendfile on; tcp_nopush on;",
        folder.join("responses").display()
    );
    let cache_use =
        "proxy_cache responses; proxy_cache_valid 200 1h; add_header X-Cache $upstream_cache_status;";
    let mut caching_proxy =
        nginx(&folder, "caching", 0, &reverse_proxy(upstream, caching_proxy, &cache_storage, cache_use))
            .and_then(|process| Server::of_nginx(process, caching_proxy, PATH))?;
    let peer = ["--peer", &format!("budget=127.0.0.1:{upstream}")];
    let mut gateway = Server::start(serve("web", gateway, &uncached, &peer), gateway, PATH)?;
    let caching = serve("web", caching_gateway, &cached, &peer);
    let mut caching_gateway = Server::start(caching, caching_gateway, PATH)?;
    // The upstream also accepts spans: it responds with 200 to every request.
    let collector = ["--otlp", &format!("http://127.0.0.1:{upstream}")];
    let mut traced = Server::start(serve("budget", traced, &cached, &collector), traced, PATH)?;
    let mut untraced = Server::start(serve("budget", untraced, &unsampled, &[]), untraced, PATH)?;

    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for server in [
            &mut bare,
            &mut hit,
            &mut proxy,
            &mut gateway,
            &mut caching_proxy,
            &mut caching_gateway,
            &mut traced,
            &mut untraced,
        ] {
            server.measure(seconds)?;
        }
    }
    drop(upstream_process);
    let rows = vec![
        comparison(
            "Full stack on a cache hit: requests/s relative to a bare axum service",
            "at least 0.98",
            &hit,
            &bare,
            "axum",
        ),
        comparison(
            "Gateway on a cache hit: requests/s relative to nginx with `proxy_cache` and `limit_req`",
            "at least 1.6",
            &caching_gateway,
            &caching_proxy,
            "nginx",
        ),
        comparison(
            "Gateway on a miss: requests/s relative to nginx with `proxy_pass` and `limit_req`",
            "at least 0.95",
            &gateway,
            &proxy,
            "nginx",
        ),
        cost_of_tracing(&traced, &untraced)?,
    ];
    drop((bare, hit, proxy, gateway, caching_proxy, caching_gateway, traced, untraced));
    let _ = std::fs::remove_dir_all(folder);
    Ok(rows)
}

/// Returns the median over the rounds.
fn median_of(server: &Server, figure: fn(&Round) -> f64) -> f64 {
    median(&server.rounds.iter().map(figure).collect::<Vec<_>>())
}

/// Returns a figure for each pair of rounds, in ascending order.
fn compare_rounds(subject: &Server, other: &Server, figure: fn(&Round, &Round) -> f64) -> Vec<f64> {
    let mut figures: Vec<f64> = subject.rounds.iter().zip(&other.rounds).map(|(a, b)| figure(a, b)).collect();
    figures.sort_by(f64::total_cmp);
    figures
}

/// Compares the requests per second of `server` with those of another one, called `name`.
fn comparison(subject: &'static str, goal: &'static str, server: &Server, other: &Server, name: &str) -> Row {
    let ratios =
        compare_rounds(server, other, |server, other| server.requests_per_second / other.requests_per_second);
    Row {
        subject,
        goal,
        measured: format!("{:.2}", median(&ratios)),
        details: format!(
            "{:.0} requests/s, {name} {:.0}; {:.1} µs of processor time per request, {name} {:.1}; ratios of \
             {} rounds from {:.2} to {:.2}",
            median_of(server, |round| round.requests_per_second),
            median_of(other, |round| round.requests_per_second),
            median_of(server, |round| round.microseconds),
            median_of(other, |round| round.microseconds),
            ratios.len(),
            ratios[0],
            ratios[ratios.len() - 1],
        ),
    }
}

/// Compares the processor time per request of a server that samples and exports one in ten requests with that
/// of one that samples none.
fn cost_of_tracing(traced: &Server, untraced: &Server) -> Result<Row, String> {
    let percent = compare_rounds(traced, untraced, |traced, untraced| {
        (traced.microseconds / untraced.microseconds - 1.0) * 100.0
    });
    let exported = traced.series("phase6_spans_exported_total")?;
    let dropped = traced.series("phase6_spans_dropped_total")?;
    Ok(Row {
        subject: "Full stack on a cache hit with one in ten requests sampled and exported: additional processor time",
        goal: "at most 1 %",
        measured: format!("{:.1} %", median(&percent)),
        details: format!(
            "{:.2} µs of processor time per request, without tracing {:.2}; {} rounds from {:.1} to {:.1} %; \
             {exported} spans exported, {dropped} dropped",
            median_of(traced, |round| round.microseconds),
            median_of(untraced, |round| round.microseconds),
            percent.len(),
            percent[0],
            percent[percent.len() - 1],
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
