//! What others do, beside ours: a program of its own in `tests/peers`, which lets all take turns.

use std::process::{Command, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Effort, Row};
use crate::{
    run::{cargo, root, succeed},
    servers,
};

const ROUNDS: &str = "15";

/// Fingerprint of the peers' lock file and sources when they were last built. Their libraries take minutes to
/// build, so the test run builds them only when one of these has changed.
const FINGERPRINT: &str = "tests/peers/built.sha256";

fn fingerprint() -> Result<String, String> {
    let mut digest = Sha256::new();
    for file in [
        "Cargo.toml",
        "Cargo.lock",
        "src/main.rs",
        "src/caches.rs",
        "src/limits.rs",
        "src/shared.rs",
        "src/traces.rs",
    ] {
        let path = root().join("tests/peers").join(file);
        digest.update(std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_fingerprint() -> String {
    std::fs::read_to_string(root().join(FINGERPRINT)).unwrap_or_default().trim().to_owned()
}

fn write_fingerprint(fingerprint: &str) -> Result<(), String> {
    let path = root().join(FINGERPRINT);
    println!("tests/peers has changed and builds; commit {FINGERPRINT}");
    std::fs::write(&path, format!("{fingerprint}\n")).map_err(|error| format!("{}: {error}", path.display()))
}

pub(super) fn run(effort: Effort) -> Result<Vec<Row>, String> {
    let manifest = root().join("tests/peers/Cargo.toml");
    let target = root().join("target/peers");
    let with = |arguments: &[&str]| -> Command {
        let mut command = cargo(arguments);
        command.arg("--manifest-path").arg(&manifest).env("CARGO_TARGET_DIR", &target);
        command
    };
    let fingerprint = fingerprint()?;
    if effort == Effort::Smoke && read_fingerprint() == fingerprint {
        println!("tests/peers has not changed since it was last built");
        return Ok(vec![]);
    }
    // limitador's Redis client needs OpenSSL.
    servers::provide("pkg-config", "pkg-config")?;
    if !Command::new("pkg-config").args(["--exists", "openssl"]).status().is_ok_and(|status| status.success())
    {
        servers::install("libssl-dev")?;
    }
    if effort == Effort::Smoke {
        succeed(&mut with(&["check", "--locked", "--quiet"]))?;
        return write_fingerprint(&fingerprint).map(|()| vec![]);
    }
    succeed(&mut with(&["build", "--locked", "--release"]))?;
    let redis = servers::redis()?;
    let mut program = Command::new(target.join("release/phase6-peers"));
    let output = program.arg(ROUNDS).env("PHASE6_TEST_REDIS", &redis.url).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("{}: {error}", program.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    let figures = Figures(said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect());
    let (ours, governor, limitador) = (
        figures.of("decision", "phase6")?,
        figures.of("decision", "governor")?,
        figures.of("decision", "limitador")?,
    );
    let [shared, each, cached] =
        ["phase6", "limitador, Redis", "limitador, cached"].map(|who| figures.of("shared decision", who));
    let (shared, each, cached) = (shared?, each?, cached?);
    let hit = figures.of("hit", "phase6")?;
    let [moka, quick_cache, foyer] = ["moka", "quick_cache", "foyer"].map(|who| figures.of("hit", who));
    let moka = moka?;
    let [new, joined, tracer, bridged] =
        ["phase6", "phase6, joined", "opentelemetry", "tracing-opentelemetry"]
            .map(|who| figures.of("unsampled", who));
    let (new, joined) = (new?, joined?);
    Ok(vec![
        Row {
            what: "A limiter decision, 100,000 callers known by name",
            goal: "at most 50 ns, 5 times as fast as `governor`, 50 times as `limitador` in memory",
            measured: format!(
                "{:.0} ns, {:.1} and {:.0} times",
                ours.ns,
                governor.ns / ours.ns,
                limitador.ns / ours.ns
            ),
            details: format!("{ours}; `governor` {governor}; `limitador` {limitador}"),
        },
        Row {
            what: "A limiter decision shared through Redis, 1,000 callers known by name",
            goal: "",
            measured: format!(
                "{:.0} ns, {:.0} times as fast as `limitador` with Redis",
                shared.ns,
                each.ns / shared.ns
            ),
            details: format!("{shared}; `limitador` {each}, where it caches {cached} and admits more"),
        },
        Row {
            what: "A cache hit in memory, 1,000 answers",
            goal: "at most 80 ns, 2.5 times as fast as `moka`",
            measured: format!("{:.0} ns, {:.1} times", hit.ns, moka.ns / hit.ns),
            details: format!("{hit}; `moka` {moka}; `quick_cache` {}; `foyer` {}", quick_cache?, foyer?),
        },
        Row {
            what: "Tracing a request that is not sampled: context, decision, ids",
            goal: "at most 60 ns",
            measured: format!("{:.0} ns", new.ns.max(joined.ns)),
            details: format!(
                "a new trace {new}, one that came with the request {joined}; OpenTelemetry's own tracer {}; \
                 `tracing-opentelemetry` {}",
                tracer?, bridged?
            ),
        },
    ])
}

struct Figures(Vec<Value>);

/// Nanoseconds: the median of the rounds, the lowest and the highest.
struct Figure {
    ns: f64,
    low: f64,
    high: f64,
}

impl Figures {
    fn of(&self, what: &str, who: &str) -> Result<Figure, String> {
        let line = self.0.iter().find(|line| line["what"] == what && line["who"] == who);
        let number = |name: &str| line?[name].as_f64();
        match (number("ns"), number("low"), number("high")) {
            (Some(ns), Some(low), Some(high)) => Ok(Figure { ns, low, high }),
            _ => Err(format!("phase6-peers did not say how {who} did at {what}")),
        }
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ns ({:.0} to {:.0})", self.ns, self.low, self.high)
    }
}
