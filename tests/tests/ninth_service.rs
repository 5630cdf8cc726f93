//! A ninth service is a folder, a row of the catalog and a dependency line: nothing else names services.
//!
//! Builds a copy of the workspace with the service of `tests/ninth`, and calls it. The copy stays in the
//! target folder, where the next run builds only what has changed since.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use phase6_tests::{Fleet, cargo, root};
use serde_json::{Value, json};

const ROW: &str = r#"            {
                name: "ninth",
                package: phase6_ninth,
                port: 3005,
                prefixes: ["/api/v1/greetings"],
                peers: Only([]),
                about: "Greets.",
            }
"#;
const DEPENDENCY: &str = "phase6-ninth = { path = \"../../services/ninth\" }\n";

/// Returns the folder of the profile that this test was built with: `target/debug`.
fn profile_folder() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
}

/// Files of the workspace with the ninth service, by their path from the root.
fn workspace_with_ninth_service() -> BTreeMap<PathBuf, Vec<u8>> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").current_dir(root()).args(arguments).output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let paths = listed.lines().map(PathBuf::from).filter(|path| root().join(path).is_file());
    let mut files: BTreeMap<_, _> =
        paths.map(|path| (path.clone(), fs::read(root().join(path)).unwrap())).collect();

    for (path, contents) in files.clone() {
        if let Ok(rest) = path.strip_prefix("tests/ninth") {
            files.insert(Path::new("services/ninth").join(rest), contents);
        }
    }
    let mut edit = |path: &str, edit: &dyn Fn(&str) -> String| {
        let contents = files.get_mut(Path::new(path)).unwrap();
        *contents = edit(std::str::from_utf8(contents).unwrap()).into_bytes();
    };
    edit("crates/catalog/src/services.rs", &|text| {
        let next = text.find("            {\n                name: \"segmentation\"").unwrap();
        format!("{}{ROW}{}", &text[..next], &text[next..])
    });
    edit("crates/runner/Cargo.toml", &|text| {
        let (lines, end) = text.split_once("\n[dev-dependencies]").unwrap();
        format!("{lines}{DEPENDENCY}\n[dev-dependencies]{end}")
    });
    files
}

/// Makes the files in `folder` the given ones. Files that are the same keep their time of modification.
fn write_files(folder: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for path in walk(folder) {
        if !files.contains_key(path.strip_prefix(folder).unwrap()) {
            fs::remove_file(path).unwrap();
        }
    }
    for (path, contents) in files {
        let path = folder.join(path);
        if fs::read(&path).is_ok_and(|present| present == *contents) {
            continue;
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
}

/// Links the libraries of others that this workspace has built, so that they are not built again.
fn link_libraries(from: &Path, to: &Path) {
    for folder in ["deps", "build", ".fingerprint"] {
        for file in walk(&from.join(folder)) {
            let path = file.strip_prefix(from).unwrap();
            let target = to.join(path);
            if path.to_string_lossy().contains("phase6") || target.exists() {
                continue;
            }
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            // A file that another build has removed meanwhile is built again.
            let _ =
                if is_output(path) { fs::hard_link(&file, target) } else { copy_with_time(&file, &target) };
        }
    }
}

/// True for the output of a compiler or build script. Cargo writes its own records again in place, which a
/// link would change in both workspaces.
fn is_output(path: &Path) -> bool {
    let is_output = |part: &std::ffi::OsStr| part == "out" || part.to_string_lossy().starts_with("build");
    path.starts_with("deps") || (path.starts_with("build") && path.iter().skip(2).any(is_output))
}

/// Copies a file with its time of modification, by which cargo knows whether a library is up to date.
fn copy_with_time(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::copy(from, to)?;
    fs::File::options().write(true).open(to)?.set_modified(fs::metadata(from)?.modified()?)
}

/// Returns all files below a folder; none if it does not exist.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test]
#[ignore = "builds a second workspace: cargo xtask test"]
async fn a_ninth_service_is_a_folder_a_row_and_a_dependency_line() {
    let profile = profile_folder();
    let folder = profile.with_file_name("ninth");
    let (copy, target) = (folder.join("workspace"), folder.join("target"));
    write_files(&copy, &workspace_with_ninth_service());
    link_libraries(&profile, &target.join(profile.file_name().unwrap()));

    let run = |command: &mut Command| {
        let output = command.current_dir(&copy).env("CARGO_TARGET_DIR", &target).output().unwrap();
        assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    };
    // With the features that a build of this workspace selects, as its libraries have them.
    let build = |program: &str| run(&mut cargo(&["build", "--workspace", "--offline", "--bin", program]));
    build("phase6-xtask");
    let built = target.join(profile.file_name().unwrap());
    run(Command::new(built.join("phase6-xtask")).arg("crd"));
    // After the definition has changed, which the program contains.
    build("phase6");
    run(Command::new("rustfmt").args(["--check", "--edition=2024", "services/ninth/src/lib.rs"]));
    run(&mut cargo(&["test", "--offline", "--quiet", "--package", "phase6-catalog"]));

    let definition = fs::read_to_string(copy.join("crds/phase6services.yaml")).unwrap();
    assert!(definition.contains("- ninth\n"), "valid in a resource:\n{definition}");

    let text = fs::read_to_string(copy.join("crds/examples/fleet.yaml")).unwrap();
    let fleet = Fleet::of_build(&built.join("phase6"), &text);
    assert!(fleet.program.output().contains("9 services ready in"), "{}", fleet.program.output());
    let expected = (200, json!({"ok": true, "greeting": "Hello, Ada"}));
    let direct = format!("http://127.0.0.1:{}/api/v1/greetings/Ada", fleet.base_port + 5);
    let response = fleet.http.get(direct).send().await.unwrap();
    let response = (response.status().as_u16(), response.json::<Value>().await.unwrap());
    assert_eq!(response, expected, "served");
    assert_eq!(fleet.get("web", "/api/v1/greetings/Ada").await, expected, "routed by web");

    let port = fleet.base_port.to_string();
    let status = Command::new(built.join("phase6")).args(["status", "--base-port", &port]).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    let row = status.lines().find(|line| line.starts_with("ninth ")).unwrap_or_else(|| panic!("{status}"));
    assert!(row.contains(" yes "), "{status}");
    assert_eq!(fleet.stop(), Some(0));
}
