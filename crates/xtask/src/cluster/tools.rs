//! The programs of a test cluster: built by Go from one module into one folder, where they stay.
//!
//! Versions are pinned in `tests/cluster/go.mod`. Its sums are part of the folder's name, so programs are
//! built again only when a version changes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    background::idle,
    run::{find, fingerprint, root, succeed},
};

/// The Kubernetes of `tests/cluster/go.mod`. The lowest supported version is 1.33; kubelets from 1.35 on
/// refuse cgroup v1 and containerd 1.x, which a machine without Docker may have.
const KUBERNETES: (&str, &str, &str) = ("1", "34", "4");

/// kind is built as its own module releases it, and only where there is a Docker engine.
const KIND: &str = "sigs.k8s.io/kind@v0.33.0";

/// A Go program, and the names that it is called by.
struct Multicall {
    /// Package below `tests/cluster`.
    package: &'static str,
    names: &'static [&'static str],
}

const PROGRAMS: [Multicall; 3] = [
    Multicall {
        package: "kubernetes",
        names: &[
            "etcd",
            "helm",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        ],
    },
    Multicall { package: "addons", names: &["coredns", "metrics-server"] },
    Multicall { package: "pause", names: &["pause"] },
];

/// Folder of the programs.
pub(crate) fn folder() -> PathBuf {
    root().join("target/cluster/tools")
}

/// Fails if this machine can run no test cluster; the error says what to install.
pub(crate) fn available() -> Result<(), String> {
    if find("go").is_some() || super::kind::is_docker_running() {
        return Ok(());
    }
    Err("a test cluster needs Go 1.24 or newer, or a Docker engine; neither is installed".into())
}

/// Builds all programs, at idle priority, unless they are up to date.
pub(crate) fn build() -> Result<(), String> {
    if super::kind::is_docker_running() {
        kind()?;
    }
    let built = folder().join(format!("built-{}", version()?));
    if !built.is_dir() {
        println!("building Kubernetes, its add-ons and Helm (about six minutes on two cores)");
        let unfinished = folder().join("unfinished");
        let _ = std::fs::remove_dir_all(&unfinished);
        std::fs::create_dir_all(&unfinished)
            .map_err(|error| format!("failed to create {}: {error}", unfinished.display()))?;
        let mut go = go();
        go.current_dir(root().join("tests/cluster"));
        go.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &linker_flags(), "-o"]);
        go.arg(&unfinished).args(PROGRAMS.map(|program| format!("./{}", program.package)));
        succeed(&mut go).map_err(|error| format!("failed to build the test cluster: {error}"))?;
        std::fs::rename(&unfinished, &built)
            .map_err(|error| format!("failed to rename {}: {error}", unfinished.display()))?;
    }
    for program in &PROGRAMS {
        for name in program.names {
            link(name, &built.join(program.package))?;
        }
    }
    Ok(())
}

/// Returns the path of the program called `name`, which is built if need be.
pub(super) fn provide(name: &str) -> Result<PathBuf, String> {
    if name == "kind" {
        return kind();
    }
    build()?;
    Ok(folder().join(name))
}

/// Returns a fingerprint of the sources and of every version that they are built from.
fn version() -> Result<String, String> {
    let files = ["go.mod", "go.sum", "kubernetes/main.go", "addons/main.go", "pause/main.go"];
    Ok(fingerprint(&root().join("tests/cluster"), &files)?[..12].to_owned())
}

/// Helm refuses a server that does not report its version.
fn linker_flags() -> String {
    let (major, minor, patch) = KUBERNETES;
    let version = "k8s.io/component-base/version";
    format!(
        "-s -w -X {version}.gitVersion=v{major}.{minor}.{patch} -X {version}.gitMajor={major} \
         -X {version}.gitMinor={minor}"
    )
}

fn kind() -> Result<PathBuf, String> {
    let program = folder().join("kind");
    if !program.is_file() {
        succeed(go().args(["install", "-trimpath", KIND]).env("GOBIN", folder()))
            .map_err(|error| format!("failed to build kind: {error}"))?;
    }
    Ok(program)
}

/// Makes `name` in the folder a link to `program`.
fn link(name: &str, program: &Path) -> Result<(), String> {
    let link = folder().join(name);
    if std::fs::read_link(&link).is_ok_and(|target| target == program) {
        return Ok(());
    }
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(program, &link).map_err(|error| format!("failed to link {name}: {error}"))
}

fn go() -> Command {
    let _ = std::fs::create_dir_all(folder());
    let mut go = idle("go");
    // Static programs, whatever C libraries this machine has.
    go.env("CGO_ENABLED", "0");
    go
}
