//! A cluster without Docker: Kubernetes' programs and Debian's containerd on this kernel.
//!
//! All of it lives in namespaces of its own, of processes, mounts and network, that one process
//! holds. The network has no way out. The mounts hide `/run`, `/var/lib` and `/var/log` behind
//! folders of the state's, so that every program has its usual paths and none of them touches the
//! machine's. Ending the holder ends every process, mount, link and rule at once: what is left
//! to remove is one folder of files and one of control groups.

mod certificates;
mod components;
mod files;
mod holder;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::tools;
use crate::{
    run::{is_root, succeed},
    servers::provide,
};
use holder::Holder;

/// The node's address, in a network that nothing else is in.
const NODE: &str = "172.31.250.2";
/// Addresses of services. The first is the API server's.
const SERVICES: &str = "10.96.0.0/16";
const API_SERVICE: &str = "10.96.0.1";
/// Where `tests/cluster/addons/coredns.yaml` puts the server of names.
const DNS_SERVICE: &str = "10.96.0.10";
/// Addresses of pods.
const PODS: &str = "10.244.0.0/16";
/// Control groups of everything the kubelet starts are below this one.
const CONTROL_GROUP: &str = "phase6-test-cluster";
/// Longest wait for a step of the start.
const START: Duration = Duration::from_mins(2);
/// Looks in a row, a tenth of a second apart, at which a program is missing before it counts as ended.
const MISSING: u32 = 20;
/// Lines of each program's log that are told when a start fails.
const TOLD: usize = 30;

pub(crate) struct Local {
    /// Programs and state.
    folder: PathBuf,
}

impl Local {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.state().join("kubeconfig/admin.json")
    }

    pub(super) fn up(&self) -> Result<(), String> {
        if !is_root() {
            return Err("a cluster without Docker needs root: namespaces, mounts and containerd".into());
        }
        tools::build()?;
        for (program, package) in [
            ("containerd", "containerd"),
            ("runc", "runc"),
            ("iptables", "iptables"),
            ("conntrack", "conntrack"),
            ("ip", "iproute2"),
            ("mount", "mount"),
            ("nsenter", "util-linux"),
            ("pkill", "procps"),
        ] {
            provide(program, package)?;
        }
        if !Path::new("/usr/lib/cni/bridge").exists() {
            provide("/usr/lib/cni/bridge", "containernetworking-plugins")?;
        }
        if let Some(holder) = Holder::find(&self.state()) {
            match holder.ended()? {
                Some(program) => println!("a cluster is there but its {program} ended; starting it anew"),
                None if self.ready("/readyz") => {
                    println!("a cluster runs already, held by process {}", holder.id());
                    return Ok(());
                }
                None => println!("a cluster is there but does not answer; starting it anew"),
            }
        }
        self.down()?;
        self.start().inspect_err(|_| self.tell_logs())
    }

    fn start(&self) -> Result<(), String> {
        let state = self.state();
        certificates::write(&state.join("pki"))?;
        files::write(&state)?;
        holder::make_control_groups(CONTROL_GROUP)?;
        let holder = Holder::start(&state, &tools::folder().join("pause"))?;
        files::network(&holder)?;
        // None of these waits long for the one that it needs: on a cold disk it would end before.
        components::store(&holder)?;
        wait("etcd", &holder, || holder.listens(components::STORE_PORT))?;
        components::api(&holder, &state)?;
        wait("the API server", &holder, || self.ready("/readyz"))?;
        components::controllers(&holder, &state)?;
        components::containers(&holder, &state)?;
        wait("containerd", &holder, || self.containers(&["version"]).is_ok())?;
        self.load_image(&super::addons::image("pause", &["pause"])?)?;
        components::node(&holder, &state)?;
        wait("the node", &holder, || {
            let output = self.command("kubectl").map(|mut kubectl| {
                let wanted = "jsonpath={.items[0].status.conditions[?(@.type=='Ready')].status}";
                kubectl.env("KUBECONFIG", self.kubeconfig()).args(["get", "nodes", "-o", wanted]).output()
            });
            matches!(output, Ok(Ok(output)) if output.stdout == b"True")
        })
    }

    /// Where a start fails nobody may be there to look at the files, as in CI.
    fn tell_logs(&self) {
        let folder = self.state().join("log");
        println!("the end of what its programs said; the whole is in {}", folder.display());
        let logs = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = logs.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        logs.sort();
        for log in logs {
            println!("--- {}", log.file_name().unwrap_or_default().display());
            let text = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(TOLD)..] {
                println!("{line}");
            }
        }
    }

    fn ready(&self, path: &str) -> bool {
        let answer = self.command("kubectl").map(|mut kubectl| {
            kubectl
                .env("KUBECONFIG", self.kubeconfig())
                .args(["get", "--raw", path, "--request-timeout=5s"])
                .output()
        });
        matches!(answer, Ok(Ok(output)) if output.status.success())
    }

    pub(super) fn runs(&self) -> bool {
        Holder::find(&self.state()).is_some()
    }

    pub(super) fn down(&self) -> Result<(), String> {
        let state = self.state();
        if let Some(holder) = Holder::find(&state) {
            holder.end()?;
        }
        holder::remove_control_groups(CONTROL_GROUP)?;
        match std::fs::remove_dir_all(&state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("cannot remove {}: {error}", state.display()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn status(&self) -> Result<(), String> {
        let Some(holder) = Holder::find(&self.state()) else {
            println!("no cluster runs");
            return Ok(());
        };
        println!("a cluster runs in {}, held by process {}", self.state().display(), holder.id());
        for (name, id) in holder.processes()? {
            println!("  {name:<24} {id}");
        }
        Ok(())
    }

    pub(super) fn command(&self, program: &str) -> Result<Command, String> {
        let holder =
            Holder::find(&self.state()).ok_or("no cluster runs; start one: cargo xtask cluster up")?;
        let in_folder = tools::folder().join(program);
        Ok(holder.in_network(&if in_folder.exists() { in_folder } else { program.into() }))
    }

    pub(super) fn load_image(&self, archive: &Path) -> Result<(), String> {
        let archive = archive.canonicalize().map_err(|error| format!("{}: {error}", archive.display()))?;
        self.containers(&["images", "import", &archive.to_string_lossy()])
    }

    /// containerd's client, in the folder of Kubernetes' containers.
    fn containers(&self, arguments: &[&str]) -> Result<(), String> {
        let holder =
            Holder::find(&self.state()).ok_or("no cluster runs; start one: cargo xtask cluster up")?;
        let mut command = holder.inside(Path::new("ctr"));
        let output = command.args(["-n", "k8s.io"]).args(arguments).output();
        let output = output.map_err(|error| format!("cannot start ctr: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("ctr: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Runs a command among the cluster's processes.
    pub(super) fn inside(&self, words: &[&str]) -> Result<(), String> {
        let holder =
            Holder::find(&self.state()).ok_or("no cluster runs; start one: cargo xtask cluster up")?;
        succeed(holder.inside(Path::new(words[0])).args(&words[1..]))
    }
}

/// Waits for a step of the start; not for a program that has ended already.
fn wait(what: &str, holder: &Holder, done: impl Fn() -> bool) -> Result<(), String> {
    let due = Instant::now() + START;
    let mut missing = 0;
    while !done() {
        let ended = holder.ended()?;
        missing = if ended.is_some() { missing + 1 } else { 0 };
        if let Some(program) = ended.filter(|_| missing > MISSING) {
            return Err(format!("{what} is not ready, and {program} ended"));
        }
        if Instant::now() > due {
            return Err(format!("{what} is not ready after {} s", START.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
