//! The packages that a change can break: those with changed files, and those that depend on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::executables::Executable;
use crate::run::{cargo, root};

/// The package of tests of the whole system, which also reads charts, documents and examples.
const SYSTEM_TESTS: &str = "phase6-tests";

/// Files that tests of another package read, by the beginning of their path.
const READ_BY: [(&str, &str); 4] = [
    ("crds/phase6services.yaml", "phase6-manifest"),
    ("crds/examples/", "phase6-runner"),
    ("charts/", "phase6-operator"),
    ("fuzz/", "phase6-xtask"),
];
/// Files that affect every package: versions, profiles, and the configuration of tools.
const FOR_ALL: [&str; 5] = ["Cargo.toml", "Cargo.lock", "clippy.toml", "rustfmt.toml", ".cargo/config.toml"];

/// Tests of the whole system that prove properties of one package, and take minutes: they run if it, or something
/// below it, has changed. Other changes to what they start are caught by shorter tests.
const LONG_TESTS: [(&str, &str); 1] = [("tests::chaos", "phase6-chassis")];

/// Packages of the workspace, as `cargo metadata` describes them.
struct Workspace {
    /// Folder of each package.
    folders: BTreeMap<PathBuf, String>,
    /// Packages that each package depends on, dev-dependencies included.
    dependencies: BTreeMap<String, BTreeSet<String>>,
}

/// Returns the packages that the changes since `revision` can break; uncommitted changes count.
pub(super) fn packages(revision: &str) -> Result<BTreeSet<String>, String> {
    let files = changed_files(revision)?;
    Ok(workspace()?.affected(&files))
}

/// True if a change to what affects `packages` can break the tests of an executable.
pub(super) fn can_break(packages: &BTreeSet<String>, executable: &Executable) -> bool {
    let subject = LONG_TESTS.iter().find(|(name, _)| *name == executable.name);
    packages.contains(subject.map_or(executable.package.as_str(), |(_, package)| package))
}

fn changed_files(revision: &str) -> Result<Vec<PathBuf>, String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(root()).args(arguments).output();
        let output = output.map_err(|error| format!("failed to start git: {error}"))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            let first = error.lines().next().unwrap_or_default();
            return Err(format!("git {}: {first}", arguments.join(" ")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect::<Vec<_>>())
    };
    let mut files = git(&["diff", "--name-only", revision])?;
    files.extend(git(&["ls-files", "--others", "--exclude-standard"])?);
    Ok(files)
}

fn workspace() -> Result<Workspace, String> {
    let output = cargo(&["metadata", "--no-deps", "--format-version=1", "--offline"]).output();
    let output = output.map_err(|error| format!("failed to start cargo: {error}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("unexpected output of cargo metadata: {error}"))?;
    Ok(Workspace::read(&metadata, &root()))
}

impl Workspace {
    fn read(metadata: &Value, root: &Path) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut workspace = Self { folders: BTreeMap::new(), dependencies: BTreeMap::new() };
        for package in metadata["packages"].as_array().into_iter().flatten() {
            let name = text(&package["name"]);
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let folder = manifest.parent().unwrap_or(root);
            workspace.folders.insert(folder.strip_prefix(root).unwrap_or(folder).to_owned(), name.clone());
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            let names = dependencies.map(|dependency| text(&dependency["name"])).collect();
            workspace.dependencies.insert(name, names);
        }
        workspace
    }

    /// Returns the packages whose results can depend on `files`.
    fn affected(&self, files: &[PathBuf]) -> BTreeSet<String> {
        let mut affected = BTreeSet::new();
        for file in files {
            let readers = READ_BY.iter().filter(|(start, _)| file.to_string_lossy().starts_with(start));
            affected.extend(readers.map(|(_, package)| (*package).to_owned()));
            let owner = file.ancestors().skip(1).find_map(|folder| self.folders.get(folder));
            match owner {
                Some(package) => {
                    affected.insert(package.clone());
                }
                None if FOR_ALL.iter().any(|name| file == Path::new(name)) => {
                    return self.dependencies.keys().cloned().collect();
                }
                // Charts, documents, examples and scripts are read by the tests of the whole system.
                None => {
                    affected.insert(SYSTEM_TESTS.to_owned());
                }
            }
        }
        loop {
            let depends = |(_, on): &(&String, &BTreeSet<String>)| !on.is_disjoint(&affected);
            let dependents: Vec<String> =
                self.dependencies.iter().filter(depends).map(|(name, _)| name.clone()).collect();
            let before = affected.len();
            affected.extend(dependents);
            if affected.len() == before {
                break;
            }
        }
        // The system tests start the program, which no dependency declares.
        if affected.contains("phase6-cli") || affected.contains("phase6-operator") {
            affected.insert(SYSTEM_TESTS.to_owned());
        }
        affected
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn affected(files: &[&str]) -> Vec<String> {
        let package = |name: &str, folder: &str, on: &[&str]| {
            let on: Vec<_> = on.iter().map(|name| json!({"name": name})).collect();
            json!({"name": name, "manifest_path": format!("/w/{folder}/Cargo.toml"), "dependencies": on})
        };
        let metadata = json!({"packages": [
            package("phase6-live", "crates/live", &[]),
            package("phase6-chassis", "crates/chassis", &["phase6-live", "serde"]),
            package("phase6-meta", "services/meta", &["phase6-chassis"]),
            package("phase6-cli", "crates/cli", &["phase6-meta"]),
            package("phase6-tests", "tests", &[]),
            package("phase6-instructions", "tests/instructions", &["phase6-live"]),
        ]});
        let files: Vec<_> = files.iter().map(PathBuf::from).collect();
        Workspace::read(&metadata, Path::new("/w")).affected(&files).into_iter().collect()
    }

    #[test]
    fn a_change_of_a_service_breaks_it_the_program_and_the_system_tests() {
        assert_eq!(affected(&["services/meta/src/lib.rs"]), ["phase6-cli", "phase6-meta", "phase6-tests"]);
    }

    #[test]
    fn dependents_of_dependents_are_affected() {
        assert_eq!(affected(&["crates/live/src/lib.rs"]).len(), 6);
    }

    #[test]
    fn files_outside_of_packages_belong_to_the_system_tests() {
        assert_eq!(affected(&["docs/running.md", "README.md"]), ["phase6-tests"]);
        assert_eq!(affected(&["charts/phase6/values.yaml"]), ["phase6-operator", "phase6-tests"]);
        assert_eq!(affected(&["tests/instructions/accepted.json"]), ["phase6-instructions"]);
        assert_eq!(affected(&[]), Vec::<String>::new());
    }

    #[test]
    fn versions_and_profiles_affect_everything() {
        assert_eq!(affected(&["Cargo.lock"]).len(), 6);
        assert_eq!(affected(&["clippy.toml"]).len(), 6);
    }
}
