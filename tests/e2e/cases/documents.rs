//! The commands of the documents, run in order on this cluster.

use std::path::Path;

use phase6_tests::{
    markdown::{Command, blocks},
    root,
};

use crate::{
    fleet::{Fleet, apply_definition, values},
    kubernetes::try_run,
};

/// Follows the README and the operating guide from an empty cluster. Each command must print the lines that the
/// document shows below it, apart from numbers.
pub async fn the_commands_of_the_documents_work(fleet: &Fleet) {
    let uninstalled =
        try_run("helm", &["uninstall", &fleet.release, "--namespace", &fleet.namespace, "--wait"]).await;
    uninstalled.unwrap();
    try_run("kubectl", &["delete", "-f", &root().join("crds").to_string_lossy()]).await.unwrap();
    // A kubeconfig whose default namespace is that of the release, as a reader would set it.
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(std::env::var("KUBECONFIG").unwrap(), config.path()).unwrap();
    let path = config.path().to_string_lossy().into_owned();
    let set = ["config", "set-context", "--current", "--kubeconfig", &path, "--namespace", &fleet.namespace];
    try_run("kubectl", &set).await.unwrap();
    let mut followed = 0;
    for document in ["README.md", "docs/operating.md"] {
        // Each document begins without a release.
        let _ = try_run("helm", &["uninstall", "phase6", "--namespace", &fleet.namespace, "--wait"]).await;
        for command in commands(document) {
            let mut text = command.text.clone();
            if text.starts_with("helm install") || text.starts_with("helm upgrade") {
                text = format!("{text} {}", values().join(" "));
            }
            let line = format!("export KUBECONFIG={path}; cd {}; {text}", root().display());
            let output = try_run("sh", &["-c", &line])
                .await
                .unwrap_or_else(|error| panic!("{}: {error}", command.location));
            let lines: Vec<String> = output.lines().map(normalized).collect();
            for expected in
                command.expected_output.iter().filter(|line| !line.trim().is_empty() && line.trim() != "...")
            {
                let expected = normalized(expected);
                assert!(
                    lines.contains(&expected),
                    "{}: {text} does not print {expected:?} but {lines:#?}",
                    command.location
                );
            }
            followed += 1;
        }
    }
    assert!(followed >= 10, "{followed} commands");
    // The release of the suite, for the cases that follow.
    let _ = try_run("helm", &["uninstall", "phase6", "--namespace", &fleet.namespace, "--wait"]).await;
    apply_definition().await;
    fleet.helm_install().await;
}

/// Returns the commands of a document that need a cluster.
fn commands(document: &str) -> Vec<Command> {
    let blocks = blocks(Path::new(document)).into_iter().filter(|block| block.language == "console");
    let commands = blocks.flat_map(|block| block.commands());
    commands
        .filter(|command| ["kubectl ", "helm "].iter().any(|tool| command.text.starts_with(tool)))
        .collect()
}

/// Replaces numbers, ages and runs of spaces, which differ between two runs.
fn normalized(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let mut normalized = String::new();
        for c in word.chars() {
            let c = if c.is_ascii_digit() { '#' } else { c };
            if !(c == '#' && normalized.ends_with('#')) {
                normalized.push(c);
            }
        }
        // Ages are printed as seconds, as minutes, or as both.
        if ["#s", "#m", "#m#s"].contains(&normalized.as_str()) { "#".to_owned() } else { normalized }
    });
    words.collect::<Vec<_>>().join(" ")
}
