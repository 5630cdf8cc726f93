//! A cluster of kind, in Docker.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::tools;
use crate::run::{find, succeed};

/// Name of the cluster.
const NAME: &str = "phase6";
/// Name that kind gives to the only node.
const NODE: &str = "phase6-control-plane";

pub(crate) struct Kind {
    folder: PathBuf,
}

/// True if a Docker engine is running; its client alone is not enough.
pub(super) fn is_docker_running() -> bool {
    let mut docker = Command::new("docker");
    docker.args(["version", "--format", "{{.Server.Version}}"]).stdout(Stdio::null()).stderr(Stdio::null());
    succeed(&mut docker).is_ok()
}

impl Kind {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub(super) fn up(&self) -> Result<(), String> {
        for tool in ["kubectl", "helm"] {
            provide(tool)?;
        }
        if Self::is_running()? {
            println!("the cluster is running already");
            return Ok(());
        }
        succeed(self.kind()?.args(["create", "cluster", "--wait", "120s"]))
    }

    pub(super) fn down(&self) -> Result<(), String> {
        succeed(self.kind()?.args(["delete", "cluster"]))
    }

    pub(super) fn status() -> Result<(), String> {
        println!(
            "{}",
            if Self::is_running()? { "the kind cluster phase6 is running" } else { "no cluster is running" }
        );
        Ok(())
    }

    pub(super) fn load_image(archive: &Path) -> Result<(), String> {
        let mut kind = Command::new(provide("kind")?);
        succeed(kind.env("KIND_CLUSTER_NAME", NAME).args(["load", "image-archive"]).arg(archive))
    }

    pub(super) fn command(program: &str) -> Command {
        let in_folder = tools::folder().join(program);
        Command::new(if in_folder.exists() { in_folder } else { program.into() })
    }

    /// Runs a command inside the node.
    pub(super) fn inside(words: &[&str]) -> Result<(), String> {
        succeed(Command::new("docker").args(["exec", NODE]).args(words))
    }

    pub(super) fn is_running() -> Result<bool, String> {
        let output = Command::new(provide("kind")?).args(["get", "clusters"]).output();
        let output = output.map_err(|error| format!("failed to start kind: {error}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().any(|name| name == NAME))
    }

    fn kind(&self) -> Result<Command, String> {
        let mut command = Command::new(provide("kind")?);
        command.env("KUBECONFIG", self.kubeconfig()).env("KIND_CLUSTER_NAME", NAME);
        Ok(command)
    }
}

/// Returns the path of a tool: the installed one, or else one that Go builds.
fn provide(tool: &str) -> Result<PathBuf, String> {
    match find(tool) {
        Some(installed) => Ok(installed),
        None => tools::provide(tool),
    }
}
