//! Comparisons with other libraries. The program in `tests/peers` measures all of them in turn.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Effort, Row};
use crate::{
    run::{cargo, fingerprint, root, succeed},
    servers,
};

/// Rounds of a measurement.
const ROUNDS: &str = "15";

/// File with the fingerprint of the peers when they were last built. Their libraries take minutes to build, so
/// the test run builds them only after a change of one of these files.
const FINGERPRINT: &str = "tests/peers/built.sha256";
const FINGERPRINT_OF: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "src/main.rs",
    "src/caches.rs",
    "src/limits.rs",
    "src/shared.rs",
    "src/traces.rs",
    "rocksdb/Cargo.toml",
    "rocksdb/src/lib.rs",
];

fn read_fingerprint() -> String {
    std::fs::read_to_string(root().join(FINGERPRINT)).unwrap_or_default().trim().to_owned()
}

fn write_fingerprint(fingerprint: &str) -> Result<(), String> {
    let path = root().join(FINGERPRINT);
    println!("tests/peers has changed and was built; commit {FINGERPRINT}");
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
    let fingerprint = fingerprint(&root().join("tests/peers"), &FINGERPRINT_OF)?;
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
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let figures = Figures(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect());
    let (phase6, governor, limitador) = (
        figures.of("decision", "phase6")?,
        figures.of("decision", "governor")?,
        figures.of("decision", "limitador")?,
    );
    let [shared, each, cached] =
        ["phase6", "limitador, Redis", "limitador, cached"].map(|name| figures.of("shared decision", name));
    let (shared, each, cached) = (shared?, each?, cached?);
    let hit = figures.of("hit", "phase6")?;
    let [moka, quick_cache, foyer] = ["moka", "quick_cache", "foyer"].map(|name| figures.of("hit", name));
    let moka = moka?;
    let [new, continued, sdk, bridge] =
        ["phase6", "phase6, continued", "opentelemetry", "tracing-opentelemetry"]
            .map(|name| figures.of("unsampled", name));
    let (new, continued) = (new?, continued?);
    Ok(vec![
        Row {
            subject: "Rate limit decision in memory, 100,000 callers known by name",
            goal: "at most 50 ns, 5 times as fast as `governor` and 50 times as fast as `limitador`",
            measured: format!(
                "{:.0} ns, {:.1} and {:.0} times as fast",
                phase6.ns,
                governor.ns / phase6.ns,
                limitador.ns / phase6.ns
            ),
            details: format!("{phase6}; `governor` {governor}; `limitador` {limitador}"),
        },
        Row {
            subject: "Rate limit decision shared through Redis, 1,000 callers known by name",
            goal: "",
            measured: format!(
                "{:.0} ns, {:.0} times as fast as `limitador` with Redis",
                shared.ns,
                each.ns / shared.ns
            ),
            details: format!(
                "{shared}; `limitador` {each}, with its local cache, which admits more than the limit, {cached}"
            ),
        },
        Row {
            subject: "Cache hit in memory, 1,000 responses",
            goal: "at most 80 ns, 2.5 times as fast as `moka`",
            measured: format!("{:.0} ns, {:.1} times as fast", hit.ns, moka.ns / hit.ns),
            details: format!("{hit}; `moka` {moka}; `quick_cache` {}; `foyer` {}", quick_cache?, foyer?),
        },
        Row {
            subject: "Tracing of a request that is not sampled: context, decision, IDs",
            goal: "at most 60 ns",
            measured: format!("{:.0} ns", new.ns.max(continued.ns)),
            details: format!(
                "a new trace {new}, one that the request continues {continued}; OpenTelemetry SDK {}; \
                 `tracing-opentelemetry` {}",
                sdk?, bridge?
            ),
        },
    ])
}

/// Lines that the program printed.
struct Figures(Vec<Value>);

/// Nanoseconds per operation.
struct Figure {
    /// Median of the rounds.
    ns: f64,
    /// Lowest of the rounds.
    low: f64,
    /// Highest of the rounds.
    high: f64,
}

impl Figures {
    /// Returns the figure of a contender in one of the comparisons.
    fn of(&self, comparison: &str, contender: &str) -> Result<Figure, String> {
        let is_wanted = |line: &&Value| line["comparison"] == comparison && line["contender"] == contender;
        let line = self.0.iter().find(is_wanted);
        let number = |name: &str| line?[name].as_f64();
        match (number("ns"), number("low"), number("high")) {
            (Some(ns), Some(low), Some(high)) => Ok(Figure { ns, low, high }),
            _ => Err(format!("phase6-peers printed no figure of {contender} for {comparison}")),
        }
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ns ({:.0} to {:.0})", self.ns, self.low, self.high)
    }
}
