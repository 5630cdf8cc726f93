//! `cargo xtask cluster`: a real Kubernetes for tests.
//!
//! With a Docker engine it is kind. Without one it is [`local`]: the programs of Kubernetes, built from their Go
//! modules, on the kernel of this machine. Users of a cluster get a kubeconfig and a search path, and need not
//! know which of the two it is.

mod addons;
mod kind;
mod local;
mod tools;

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::run::{root, succeed};

pub(crate) use tools::{available, build as build_tools};

pub(crate) const USAGE: &str = "usage: cargo xtask cluster COMMAND

  up                  start a cluster, unless one is running
  down                stop the cluster and remove its state
  status              list the running programs and print the folder of the state
  kubeconfig          print the path of the kubeconfig
  load-image FILE...  load images (OCI archives) into the nodes
  exec -- COMMAND...  run a command with access to the cluster: KUBECONFIG, kubectl and helm are set up
  pause COMPONENT     suspend apiserver, kubelet or scheduler with SIGSTOP
  resume COMPONENT    let it continue
  freeze SERVICE      suspend the program in every pod of a service with SIGSTOP
  thaw SERVICE        let it continue
";

/// The cluster of this machine.
pub(crate) enum Cluster {
    Kind(kind::Kind),
    Local(local::Local),
}

/// Runs one of the commands.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let cluster = Cluster::of_this_machine();
    match words.as_slice() {
        ["up"] => cluster.up(),
        ["down"] => cluster.down(),
        ["status"] => cluster.status(),
        ["kubeconfig"] => {
            println!("{}", cluster.kubeconfig().display());
            Ok(())
        }
        ["load-image", files @ ..] if !files.is_empty() => {
            files.iter().try_for_each(|file| cluster.load_image(Path::new(file)))
        }
        ["exec", "--", program, rest @ ..] => {
            let mut command = cluster.command(program)?;
            // This process becomes the command, so that it gets signals and its exit code is passed on.
            Err(format!("failed to start {program}: {}", command.args(rest).exec()))
        }
        ["pause", component] => cluster.signal(component, "-STOP"),
        ["resume", component] => cluster.signal(component, "-CONT"),
        ["freeze", service] => cluster.signal_pods(service, "-STOP"),
        ["thaw", service] => cluster.signal_pods(service, "-CONT"),
        [] => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(format!("cluster {} is not a command\n\n{USAGE}", other.join(" "))),
    }
}

impl Cluster {
    /// Returns the cluster that this machine can run, whether it is running or not.
    pub(crate) fn of_this_machine() -> Self {
        let folder = root().join("target/cluster");
        if kind::is_docker_running() {
            Self::Kind(kind::Kind::new(folder))
        } else {
            Self::Local(local::Local::new(folder))
        }
    }

    /// Starts the cluster, unless it is running. When this returns, its nodes are ready, and names and metrics
    /// are served.
    pub(crate) fn up(&self) -> Result<(), String> {
        match self {
            Self::Kind(kind) => kind.up()?,
            Self::Local(local) => local.up()?,
        }
        addons::install(self)?;
        println!("the cluster is running; KUBECONFIG={}", self.kubeconfig().display());
        Ok(())
    }

    /// Stops the cluster and removes its state.
    pub(crate) fn down(&self) -> Result<(), String> {
        match self {
            Self::Kind(kind) => kind.down(),
            Self::Local(local) => local.down(),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        match self {
            Self::Kind(_) => kind::Kind::is_running().unwrap_or(false),
            Self::Local(local) => local.is_running(),
        }
    }

    fn status(&self) -> Result<(), String> {
        match self {
            Self::Kind(_) => kind::Kind::status(),
            Self::Local(local) => local.status(),
        }
    }

    /// Returns the path of the administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Kind(kind) => kind.kubeconfig(),
            Self::Local(local) => local.kubeconfig(),
        }
    }

    /// Returns a command with access to the cluster.
    pub(crate) fn command(&self, program: &str) -> Result<Command, String> {
        let mut command = match self {
            Self::Kind(_) => kind::Kind::command(program),
            Self::Local(local) => local.command(program)?,
        };
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("KUBECONFIG", self.kubeconfig());
        command.env("PATH", format!("{}:{path}", tools::folder().display()));
        Ok(command)
    }

    /// Runs kubectl, which must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<(), String> {
        succeed(self.command("kubectl")?.args(arguments))
    }

    /// Loads an image into the nodes.
    pub(crate) fn load_image(&self, archive: &Path) -> Result<(), String> {
        match self {
            Self::Kind(_) => kind::Kind::load_image(archive),
            Self::Local(local) => local.load_image(archive),
        }
    }

    /// Sends a signal to the program in every pod of one of our services.
    fn signal_pods(&self, service: &str, signal: &str) -> Result<(), String> {
        let line = format!("^/usr/bin/phase6 serve {service} ");
        match self {
            Self::Kind(_) => kind::Kind::inside(&["pkill", signal, "-f", &line]),
            Self::Local(local) => local.inside(&["pkill", signal, "-f", &line]),
        }
    }

    /// Sends a signal to a component of the control plane or the node.
    fn signal(&self, component: &str, signal: &str) -> Result<(), String> {
        let program = match component {
            "apiserver" => "kube-apiserver",
            "scheduler" => "kube-scheduler",
            "kubelet" => "kubelet",
            _ => {
                return Err(format!(
                    "unknown component {component}; accepted: apiserver, kubelet, scheduler"
                ));
            }
        };
        match self {
            // The whole command line is matched, because the kernel truncates names to 15 characters.
            Self::Kind(_) => kind::Kind::inside(&["pkill", signal, "-f", &format!("^[^ ]*{program} ")]),
            Self::Local(local) => local.inside(&["pkill", signal, "-f", &format!("^[^ ]*{program} ")]),
        }
    }
}
