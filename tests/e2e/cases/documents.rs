//! The documents' own commands, in their order, on this cluster.

use std::path::Path;

use phase6_tests::{
    markdown::{Command, blocks},
    root,
};

use crate::{
    fleet::{Fleet, apply_definition, values},
    kubernetes::try_run,
};

/// From nothing to a retuned limit, by the commands that the README gives, then those of the
/// operators' guide. What they print is what stands below them, numbers and names of pods aside.
pub async fn people_can_follow_the_documents(fleet: &Fleet) {
    let uninstalled =
        try_run("helm", &["uninstall", &fleet.release, "--namespace", &fleet.namespace, "--wait"]).await;
    uninstalled.unwrap();
    try_run("kubectl", &["delete", "-f", &root().join("crds").to_string_lossy()]).await.unwrap();
    // A kubeconfig whose usual namespace is this one, as a reader would have chosen it.
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(std::env::var("KUBECONFIG").unwrap(), config.path()).unwrap();
    let path = config.path().to_string_lossy().into_owned();
    let set = ["config", "set-context", "--current", "--kubeconfig", &path, "--namespace", &fleet.namespace];
    try_run("kubectl", &set).await.unwrap();
    let mut followed = 0;
    for document in ["README.md", "docs/operating.md"] {
        // Each of them begins with nothing.
        let _ = try_run("helm", &["uninstall", "phase6", "--namespace", &fleet.namespace, "--wait"]).await;
        for command in commands(document) {
            let mut text = command.text.clone();
            if text.starts_with("helm install") || text.starts_with("helm upgrade") {
                text = format!("{text} {}", values().join(" "));
            }
            let line = format!("export KUBECONFIG={path}; cd {}; {text}", root().display());
            let told = try_run("sh", &["-c", &line])
                .await
                .unwrap_or_else(|error| panic!("{}: {error}", command.place));
            let told: Vec<String> = told.lines().map(masked).collect();
            for printed in
                command.prints.iter().filter(|line| !line.trim().is_empty() && line.trim() != "...")
            {
                let wanted = masked(printed);
                assert!(
                    told.contains(&wanted),
                    "{}: {text} does not print {wanted:?} but {told:#?}",
                    command.place
                );
            }
            followed += 1;
        }
    }
    assert!(followed >= 10, "{followed} commands");
    // The suite's own release again.
    let _ = try_run("helm", &["uninstall", "phase6", "--namespace", &fleet.namespace, "--wait"]).await;
    apply_definition().await;
    fleet.helm_install().await;
}

/// The commands of a document that need a cluster.
fn commands(document: &str) -> Vec<Command> {
    let blocks = blocks(Path::new(document)).into_iter().filter(|block| block.kind == "console");
    let commands = blocks.flat_map(|block| block.commands());
    commands
        .filter(|command| ["kubectl ", "helm "].iter().any(|tool| command.text.starts_with(tool)))
        .collect()
}

/// A line without what differs from run to run: numbers, ages, space between columns.
fn masked(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let mut masked = String::new();
        for c in word.chars() {
            let c = if c.is_ascii_digit() { '#' } else { c };
            if !(c == '#' && masked.ends_with('#')) {
                masked.push(c);
            }
        }
        // An age may be seconds or minutes.
        if ["#s", "#m", "#m#s"].contains(&masked.as_str()) { "#".to_owned() } else { masked }
    });
    words.collect::<Vec<_>>().join(" ")
}
