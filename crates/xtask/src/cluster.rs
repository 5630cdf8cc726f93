//! `cargo xtask cluster`: a real Kubernetes to test on.
//!
//! Where a Docker engine answers it is kind's, as users have it. Elsewhere it is [`local`]: the
//! same programs, built from their Go modules, on this machine's own kernel. Whatever uses a
//! cluster gets a kubeconfig and a search path and does not know which of the two it is.

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

  up                  start a cluster; one that runs already is kept
  down                end it and everything it left
  status              what runs, and where its state is
  kubeconfig          print the path of the kubeconfig
  load-image FILE...  make images (OCI archives) known to the nodes
  exec -- COMMAND...  run a command where the cluster can be reached, with KUBECONFIG,
                      kubectl and helm
  pause PART          stop apiserver, kubelet or scheduler where it stands
  resume PART         let it go on
  freeze SERVICE      stop the program in every pod of a service, and thaw SERVICE
";

/// A cluster of this machine.
pub(crate) enum Cluster {
    Kind(kind::Kind),
    Local(local::Local),
}

/// Runs one of the verbs.
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
            // This process becomes the command, so that signals and its result are its own.
            Err(format!("cannot start {program}: {}", command.args(rest).exec()))
        }
        ["pause", part] => cluster.signal(part, "-STOP"),
        ["resume", part] => cluster.signal(part, "-CONT"),
        ["freeze", service] => cluster.signal_pods(service, "-STOP"),
        ["thaw", service] => cluster.signal_pods(service, "-CONT"),
        _ => Err(USAGE.into()),
    }
}

impl Cluster {
    /// The kind of cluster that this machine can run.
    pub(crate) fn of_this_machine() -> Self {
        let folder = root().join("target/cluster");
        if kind::docker_answers() {
            Self::Kind(kind::Kind::new(folder))
        } else {
            Self::Local(local::Local::new(folder))
        }
    }

    /// Starts it, unless it runs. Its nodes are ready, and names and metrics are served, when this
    /// returns.
    pub(crate) fn up(&self) -> Result<(), String> {
        match self {
            Self::Kind(kind) => kind.up()?,
            Self::Local(local) => local.up()?,
        }
        addons::install(self)?;
        println!("the cluster runs; KUBECONFIG={}", self.kubeconfig().display());
        Ok(())
    }

    /// Ends it.
    pub(crate) fn down(&self) -> Result<(), String> {
        match self {
            Self::Kind(kind) => kind.down(),
            Self::Local(local) => local.down(),
        }
    }

    /// Whether it is there.
    pub(crate) fn runs(&self) -> bool {
        match self {
            Self::Kind(_) => kind::Kind::runs().unwrap_or(false),
            Self::Local(local) => local.runs(),
        }
    }

    fn status(&self) -> Result<(), String> {
        match self {
            Self::Kind(_) => kind::Kind::status(),
            Self::Local(local) => local.status(),
        }
    }

    /// Where the administrator's kubeconfig is, or will be.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Kind(kind) => kind.kubeconfig(),
            Self::Local(local) => local.kubeconfig(),
        }
    }

    /// A command that reaches the cluster.
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

    /// Runs kubectl to its end.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<(), String> {
        succeed(self.command("kubectl")?.args(arguments))
    }

    /// Makes an image known to the nodes.
    pub(crate) fn load_image(&self, archive: &Path) -> Result<(), String> {
        match self {
            Self::Kind(_) => kind::Kind::load_image(archive),
            Self::Local(local) => local.load_image(archive),
        }
    }

    /// Sends a signal to the programs in the pods of one of our services.
    fn signal_pods(&self, service: &str, signal: &str) -> Result<(), String> {
        let line = format!("^/usr/bin/phase6 serve {service} ");
        match self {
            Self::Kind(_) => kind::Kind::inside(&["pkill", signal, "-f", &line]),
            Self::Local(local) => local.inside(&["pkill", signal, "-f", &line]),
        }
    }

    /// Sends a signal to one of the cluster's programs, to see what happens without it.
    fn signal(&self, part: &str, signal: &str) -> Result<(), String> {
        let program = match part {
            "apiserver" => "kube-apiserver",
            "scheduler" => "kube-scheduler",
            "kubelet" => "kubelet",
            _ => return Err(format!("unknown part {part:?}; say apiserver, kubelet or scheduler")),
        };
        match self {
            // In full: the kernel keeps 15 letters of a name.
            Self::Kind(_) => kind::Kind::inside(&["pkill", signal, "-f", &format!("^[^ ]*{program} ")]),
            Self::Local(local) => local.inside(&["pkill", signal, "-f", &format!("^[^ ]*{program} ")]),
        }
    }
}
