//! The dependencies between crates are those of the design, and no others:
//!
//! services -> chassis -> {cache, ratelimit, breaker, telemetry, store, otlp} -> {redis, live, policy,
//! catalog}; runner -> services; cli -> runner; operator -> crds; tests -> anything; nothing -> tests.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand};
use phase6_catalog::SERVICES;

const LAYERS: [&str; 5] = ["cache", "ratelimit", "breaker", "telemetry", "store"];
const FOUNDATION: [&str; 4] = ["redis", "live", "policy", "catalog"];

fn services() -> Vec<&'static str> {
    SERVICES.iter().map(|service| service.name).collect()
}

/// Returns the crates that a crate may depend on.
fn allowed(name: &str) -> Vec<&'static str> {
    let union = |parts: &[&[&'static str]]| parts.concat();
    match name {
        "policy" | "live" | "catalog" => vec![],
        "redis" => vec!["live", "policy"],
        layer if LAYERS.contains(&layer) => FOUNDATION.to_vec(),
        "otlp" => vec!["telemetry"],
        "jobs" => vec!["store"],
        "identity" => vec!["store", "live"],
        "events" => vec!["identity"],
        "idempotency" => vec!["store", "identity"],
        "chassis" => union(&[&LAYERS, &["otlp", "jobs", "identity", "idempotency", "events"], &FOUNDATION]),
        service if services().contains(&service) => vec!["chassis"],
        "manifest" | "crds" => vec!["policy", "catalog"],
        "runner" => union(&[&services(), &["chassis", "manifest", "otlp"], &LAYERS, &FOUNDATION]),
        "cli" => union(&[&["runner", "chassis", "manifest"], &LAYERS, &FOUNDATION]),
        "operator" => vec!["crds", "manifest", "policy", "catalog"],
        "xtask" => vec!["crds", "catalog", "manifest"],
        // The cores whose instructions are counted, without the layers around them.
        "instructions" => union(&[&LAYERS, &FOUNDATION]),
        "test-programs" => vec![],
        other => panic!("add the crate {other} to the design"),
    }
}

/// Returns the dependencies of each crate on other crates of the workspace.
fn dependencies(kinds: &[DependencyKind]) -> BTreeMap<String, Vec<String>> {
    let metadata = MetadataCommand::new().current_dir(phase6_tests::root()).no_deps().exec().unwrap();
    let short = |name: &str| name.strip_prefix("phase6-").map(str::to_owned);
    let mut found = BTreeMap::new();
    for package in metadata.workspace_packages() {
        let from = short(&package.name).unwrap_or_else(|| panic!("{} lacks our prefix", package.name));
        let to = package.dependencies.iter().filter(|dependency| kinds.contains(&dependency.kind));
        found.insert(from, to.filter_map(|dependency| short(&dependency.name)).collect());
    }
    found
}

#[test]
fn every_dependency_is_in_the_design() {
    let mut others = Vec::new();
    for (from, targets) in dependencies(&[DependencyKind::Normal, DependencyKind::Build]) {
        if ["tests", "fuzz"].contains(&from.as_str()) {
            continue;
        }
        let allowed = allowed(&from);
        for to in targets {
            if !allowed.contains(&to.as_str()) {
                others.push(format!("{from} -> {to}"));
            }
        }
    }
    assert!(others.is_empty(), "dependencies that the design does not have: {others:?}");
}

#[test]
fn nothing_depends_on_the_tests() {
    let all = [DependencyKind::Normal, DependencyKind::Build, DependencyKind::Development];
    let others: Vec<_> =
        dependencies(&all).into_iter().filter(|(_, targets)| targets.contains(&"tests".to_owned())).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn every_folder_of_services_is_in_the_catalog() {
    let folders = std::fs::read_dir(phase6_tests::root().join("services")).unwrap();
    let mut names: Vec<_> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut expected = services();
    expected.sort_unstable();
    assert_eq!(names, expected);
}
