//! The programs of a test cluster: built by Go into one folder, where they stay.
//!
//! Versions are pinned here and in `tests/cluster/go.mod`. A program that is there is not built
//! again unless its version changes, because the version is part of the file's name.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::run::{find, root, succeed};

/// A program that is built as its own module releases it.
struct Released {
    name: &'static str,
    package: &'static str,
    version: &'static str,
}

const RELEASED: [Released; 4] = [
    Released { name: "coredns", package: "github.com/coredns/coredns", version: "v1.15.0" },
    Released {
        name: "metrics-server",
        package: "sigs.k8s.io/metrics-server/cmd/metrics-server",
        version: "v0.9.0",
    },
    Released { name: "helm", package: "helm.sh/helm/v4/cmd/helm", version: "v4.3.1" },
    Released { name: "kind", package: "sigs.k8s.io/kind", version: "v0.33.0" },
];

/// The Kubernetes of `tests/cluster/go.mod`. The lowest that we support is 1.33; kubelets from 1.35
/// on refuse cgroup v1 and containerd 1.x, which is what a machine without Docker may have.
const KUBERNETES: (&str, &str, &str) = ("1", "34", "4");

/// The names that the one program of `tests/cluster` is called as.
const PARTS: [&str; 7] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// Where the programs are.
pub(crate) fn folder() -> PathBuf {
    root().join("target/cluster/tools")
}

/// Whether a cluster can be had here at all, and if not, what to install.
pub(crate) fn available() -> Result<(), String> {
    if find("go").is_some() || super::kind::docker_answers() {
        return Ok(());
    }
    Err("a test cluster needs Go 1.24 or newer, or a Docker engine that answers, and neither is here".into())
}

/// Sees to it that the program `name` is in [`folder`], and tells where.
pub(super) fn provide(name: &str) -> Result<PathBuf, String> {
    let link = folder().join(name);
    if PARTS.contains(&name) {
        kubernetes()?;
    } else if name == "pause" {
        if !link.is_file() {
            build("pause", "-s -w", &link, "./pause")?;
        }
    } else {
        let released = RELEASED.iter().find(|released| released.name == name);
        release(released.ok_or_else(|| format!("there is no program {name}"))?)?;
    }
    Ok(link)
}

fn kubernetes() -> Result<(), String> {
    let (major, minor, patch) = KUBERNETES;
    let name = format!("kubernetes-v{major}.{minor}.{patch}");
    let program = folder().join(&name);
    if !program.is_file() {
        println!("building Kubernetes v{major}.{minor}.{patch} (about five minutes on two cores)");
        // Helm refuses a server that does not know its version.
        let version = "k8s.io/component-base/version";
        let flags = format!(
            "-s -w -X {version}.gitVersion=v{major}.{minor}.{patch} -X {version}.gitMajor={major} \
             -X {version}.gitMinor={minor}"
        );
        build("Kubernetes", &flags, &program, ".")?;
    }
    PARTS.iter().try_for_each(|part| point(part, &name))
}

/// Builds a package of `tests/cluster`.
fn build(what: &str, flags: &str, program: &Path, package: &str) -> Result<(), String> {
    let unfinished = program.with_extension("unfinished");
    let mut go = go();
    go.current_dir(root().join("tests/cluster"));
    go.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o"]).arg(&unfinished).arg(package);
    succeed(&mut go).map_err(|error| format!("cannot build {what}: {error}"))?;
    std::fs::rename(&unfinished, program).map_err(|error| format!("cannot keep {what}: {error}"))
}

fn release(released: &Released) -> Result<(), String> {
    let Released { name, package, version } = released;
    let kept = format!("{name}-{version}");
    if !folder().join(&kept).is_file() {
        println!("building {name} {version}");
        let made = folder().join("made");
        let mut go = go();
        go.args([
            "install",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            "-s -w",
            &format!("{package}@{version}"),
        ]);
        succeed(go.env("GOBIN", &made)).map_err(|error| format!("cannot build {name}: {error}"))?;
        std::fs::rename(made.join(name), folder().join(&kept))
            .map_err(|error| format!("cannot keep {name}: {error}"))?;
    }
    point(name, &kept)
}

/// Makes `name` lead to the program `kept` in the same folder.
fn point(name: &str, kept: &str) -> Result<(), String> {
    let link = folder().join(name);
    if std::fs::read_link(&link).is_ok_and(|target| target == Path::new(kept)) {
        return Ok(());
    }
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(kept, &link).map_err(|error| format!("cannot link {name}: {error}"))
}

fn go() -> Command {
    let _ = std::fs::create_dir_all(folder());
    let mut go = Command::new("go");
    // One static program each, whatever C libraries this machine has.
    go.env("CGO_ENABLED", "0");
    go
}
