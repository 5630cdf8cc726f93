//! A cluster in Docker, by kind.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::tools;
use crate::run::{find, succeed};

const NAME: &str = "phase6";
/// kind names its only node so.
const NODE: &str = "phase6-control-plane";

pub(crate) struct Kind {
    folder: PathBuf,
}

/// Whether there is a Docker engine, not only its client.
pub(super) fn docker_answers() -> bool {
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
        if Self::runs()? {
            println!("a cluster runs already");
            return Ok(());
        }
        succeed(self.kind()?.args(["create", "cluster", "--wait", "120s"]))
    }

    pub(super) fn down(&self) -> Result<(), String> {
        succeed(self.kind()?.args(["delete", "cluster"]))
    }

    pub(super) fn status() -> Result<(), String> {
        println!("{}", if Self::runs()? { "kind's cluster phase6 runs" } else { "no cluster runs" });
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

    /// Runs a command in the node.
    pub(super) fn inside(words: &[&str]) -> Result<(), String> {
        succeed(Command::new("docker").args(["exec", NODE]).args(words))
    }

    pub(super) fn runs() -> Result<bool, String> {
        let output = Command::new(provide("kind")?).args(["get", "clusters"]).output();
        let output = output.map_err(|error| format!("cannot start kind: {error}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().any(|name| name == NAME))
    }

    fn kind(&self) -> Result<Command, String> {
        let mut command = Command::new(provide("kind")?);
        command.env("KUBECONFIG", self.kubeconfig()).env("KIND_CLUSTER_NAME", NAME);
        Ok(command)
    }
}

/// A tool as it is installed here, else as Go builds it.
fn provide(tool: &str) -> Result<PathBuf, String> {
    match find(tool) {
        Some(installed) => Ok(installed),
        None => tools::provide(tool),
    }
}
