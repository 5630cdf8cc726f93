//! A cluster without Docker: the programs of Kubernetes and Debian's containerd on the kernel of this machine.
//!
//! The cluster has its own PID, mount and network namespaces, which one process holds open. The network has no
//! route out. Bind mounts replace `/run`, `/var/lib` and `/var/log` with folders of the state, so that every
//! program uses its default paths without touching those of the machine. When the holder ends, the kernel ends
//! every process, mount, link and firewall rule; only the state and a control group remain to be removed.

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

/// Address of the node, in a separate network.
const NODE: &str = "172.31.250.2";
/// Addresses of Services. The first one belongs to the API server.
const SERVICES: &str = "10.96.0.0/16";
const API_SERVICE: &str = "10.96.0.1";
/// Address of the DNS server, as `tests/cluster/addons/coredns.yaml` sets it.
const DNS_SERVICE: &str = "10.96.0.10";
/// Addresses of pods.
const PODS: &str = "10.244.0.0/16";
/// Control group above those of all pods.
const CONTROL_GROUP: &str = "phase6-test-cluster";
/// Longest wait for a step of the start.
const STEP_TIMEOUT: Duration = Duration::from_mins(2);
/// Time between two checks whether a step is complete.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Consecutive checks at which a program is missing before it counts as exited.
const MISSING_LIMIT: u32 = 20;
/// Last lines of the log of each program that are printed when a start fails.
const LOG_LINES: usize = 30;

pub(crate) struct Local {
    /// Folder of the programs and the state.
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
            return Err("a cluster without Docker needs root, for namespaces, mounts and containerd".into());
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
            match holder.exited_program()? {
                Some(program) => println!("{program} of the cluster has exited; restarting the cluster"),
                None if self.is_ready() => {
                    println!("the cluster is running already, held by process {}", holder.id());
                    return Ok(());
                }
                None => println!("the API server is not ready; restarting the cluster"),
            }
        }
        self.down()?;
        self.start().inspect_err(|_| self.print_logs())
    }

    fn start(&self) -> Result<(), String> {
        let state = self.state();
        certificates::write(&state.join("pki"))?;
        files::write(&state)?;
        holder::create_control_groups(CONTROL_GROUP)?;
        let holder = Holder::start(&state, &tools::folder().join("pause"))?;
        files::set_up_network(&holder)?;
        // Each program is started once the one that it needs is ready, because it exits after a short wait,
        // which a cold disk exceeds.
        components::start_etcd(&holder)?;
        wait_until("etcd is ready", &holder, || holder.is_listening(components::ETCD_PORT))?;
        components::start_api_server(&holder, &state)?;
        wait_until("the API server is ready", &holder, || self.is_ready())?;
        components::start_controllers(&holder, &state)?;
        components::start_containerd(&holder, &state)?;
        wait_until("containerd is ready", &holder, || self.ctr(&["version"]).is_ok())?;
        self.load_image(&super::addons::image("pause", &["pause"])?)?;
        components::start_node(&holder, &state)?;
        wait_until("the node is ready", &holder, || {
            let path = "jsonpath={.items[0].status.conditions[?(@.type=='Ready')].status}";
            self.kubectl(&["get", "nodes", "-o", path]).is_some_and(|output| output == b"True")
        })
    }

    /// Prints the end of each log, because in CI the files cannot be read after a failure.
    fn print_logs(&self) {
        let folder = self.state().join("log");
        println!("the last lines of each log; the whole logs are in {}", folder.display());
        let logs = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = logs.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        logs.sort();
        for log in logs {
            println!("--- {}", log.file_name().unwrap_or_default().display());
            let text = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                println!("{line}");
            }
        }
    }

    /// True if the API server is ready.
    fn is_ready(&self) -> bool {
        self.kubectl(&["get", "--raw", "/readyz", "--request-timeout=5s"]).is_some()
    }

    /// Runs kubectl, and returns its output if it succeeds.
    fn kubectl(&self, arguments: &[&str]) -> Option<Vec<u8>> {
        let mut kubectl = self.command("kubectl").ok()?;
        let output = kubectl.env("KUBECONFIG", self.kubeconfig()).args(arguments).output().ok()?;
        output.status.success().then_some(output.stdout)
    }

    /// Returns the holder of the running cluster.
    fn holder(&self) -> Result<Holder, String> {
        Holder::find(&self.state())
            .ok_or_else(|| "no cluster is running; start one with `cargo xtask cluster up`".to_owned())
    }

    pub(super) fn is_running(&self) -> bool {
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
                Err(format!("failed to remove {}: {error}", state.display()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn status(&self) -> Result<(), String> {
        let Some(holder) = Holder::find(&self.state()) else {
            println!("no cluster is running");
            return Ok(());
        };
        println!("a cluster is running in {}, held by process {}", self.state().display(), holder.id());
        for (name, id) in holder.processes()? {
            println!("  {name:<24} {id}");
        }
        Ok(())
    }

    pub(super) fn command(&self, program: &str) -> Result<Command, String> {
        let in_folder = tools::folder().join(program);
        Ok(self.holder()?.in_network(&if in_folder.exists() { in_folder } else { program.into() }))
    }

    pub(super) fn load_image(&self, archive: &Path) -> Result<(), String> {
        let archive = archive.canonicalize().map_err(|error| format!("{}: {error}", archive.display()))?;
        self.ctr(&["images", "import", &archive.to_string_lossy()])
    }

    /// Runs the client of containerd in the namespace that Kubernetes uses.
    fn ctr(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = self.holder()?.inside(Path::new("ctr"));
        let output = command.args(["-n", "k8s.io"]).args(arguments).output();
        let output = output.map_err(|error| format!("failed to start ctr: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("ctr: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Runs a command in the namespaces of the cluster.
    pub(super) fn inside(&self, words: &[&str]) -> Result<(), String> {
        succeed(self.holder()?.inside(Path::new(words[0])).args(&words[1..]))
    }
}

/// Waits for a step of the start. Fails early if one of the programs has exited.
fn wait_until(description: &str, holder: &Holder, condition: impl Fn() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    let mut missing = 0;
    while !condition() {
        let exited = holder.exited_program()?;
        missing = if exited.is_some() { missing + 1 } else { 0 };
        if let Some(program) = exited.filter(|_| missing > MISSING_LIMIT) {
            return Err(format!("{program} exited while waiting until {description}"));
        }
        if Instant::now() > deadline {
            return Err(format!("timed out after {} s waiting until {description}", STEP_TIMEOUT.as_secs()));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}
