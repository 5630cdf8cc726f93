//! The arrows between rooms, as the design draws them: nothing else may depend on anything.
//!
//! services -> chassis -> {cache, ratelimit, breaker, store, otlp} -> {redis, telemetry, live, policy};
//! operator and cli -> crds -> policy; tests -> anything; nothing -> tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand};

const SERVICES: [&str; 8] =
    ["web", "training", "meta", "budget", "coach", "segmentation", "reports", "capabilities"];
const LAYERS: [&str; 5] = ["cache", "ratelimit", "breaker", "telemetry", "store"];
const GROUND: [&str; 3] = ["redis", "live", "policy"];

/// What each room may depend on.
fn allowed(room: &str) -> Vec<&'static str> {
    let with = |parts: &[&[&'static str]]| parts.concat();
    match room {
        "policy" | "live" => vec![],
        "redis" => vec!["live", "policy"],
        room if LAYERS.contains(&room) => GROUND.to_vec(),
        "otlp" => vec!["telemetry"],
        "chassis" => with(&[&LAYERS, &["otlp"], &GROUND]),
        room if SERVICES.contains(&room) => vec!["chassis"],
        "crds" => vec!["policy"],
        "operator" => vec!["crds", "policy"],
        // The program lists the services and runs them under documents that it reads.
        "cli" => with(&[&SERVICES, &["chassis", "crds", "otlp"], &LAYERS, &GROUND]),
        "xtask" => vec!["crds"],
        // What is counted: the cores, and nothing around them.
        "instructions" => with(&[&LAYERS, &GROUND]),
        other => panic!("the design has no room {other}"),
    }
}

fn arrows(kinds: &[DependencyKind]) -> BTreeMap<String, Vec<String>> {
    let metadata = MetadataCommand::new().current_dir(phase6_tests::root()).no_deps().exec().unwrap();
    let room = |name: &str| name.strip_prefix("phase6-").map(str::to_owned);
    let mut arrows = BTreeMap::new();
    for package in metadata.workspace_packages() {
        let from = room(&package.name).unwrap_or_else(|| panic!("{} has not our prefix", package.name));
        let to = package.dependencies.iter().filter(|dependency| kinds.contains(&dependency.kind));
        arrows.insert(from, to.filter_map(|dependency| room(&dependency.name)).collect());
    }
    arrows
}

#[test]
fn no_arrow_is_drawn_that_the_design_does_not_have() {
    let mut wrong = Vec::new();
    for (from, targets) in arrows(&[DependencyKind::Normal, DependencyKind::Build]) {
        if from == "tests" {
            continue;
        }
        let allowed = allowed(&from);
        for to in targets {
            if !allowed.contains(&to.as_str()) {
                wrong.push(format!("{from} -> {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the design does not have: {wrong:?}");
}

#[test]
fn nothing_depends_on_the_tests() {
    let all = [DependencyKind::Normal, DependencyKind::Build, DependencyKind::Development];
    let wrong: Vec<_> =
        arrows(&all).into_iter().filter(|(_, targets)| targets.contains(&"tests".to_owned())).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn every_folder_of_services_is_one_of_the_eight() {
    let folders = std::fs::read_dir(phase6_tests::root().join("services")).unwrap();
    let mut names: Vec<_> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut expected = SERVICES.to_vec();
    expected.sort_unstable();
    assert_eq!(names, expected);
}
