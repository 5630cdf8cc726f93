//! The process that holds the namespaces of the cluster open, and commands inside them.
//!
//! This process is the first one of a PID namespace, so the kernel ends all others with it. A file records its id
//! together with its start time, so that another process that gets the same id later is not mistaken for it.

use std::{
    fs::File,
    io::ErrorKind,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::run::succeed;

/// Longest wait for processes to start or to end.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(20);
/// Folders of the machine that the cluster does not see, and the folder of the state that replaces each.
const HIDDEN: [(&str, &str); 3] = [("/run", "run"), ("/var/lib", "lib"), ("/var/log", "log")];

pub(super) struct Holder {
    id: u32,
    state: PathBuf,
}

impl Holder {
    /// Returns the running holder of the cluster whose state is in this folder.
    pub(super) fn find(state: &Path) -> Option<Self> {
        let recorded = std::fs::read_to_string(state.join("holder")).ok()?;
        let id: u32 = recorded.split_whitespace().next()?.parse().ok()?;
        (identity(id)? == recorded).then(|| Self { id, state: state.to_owned() })
    }

    /// Creates the namespaces.
    pub(super) fn start(state: &Path, pause: &Path) -> Result<Self, String> {
        for (hidden, _) in HIDDEN {
            if state.starts_with(hidden) {
                return Err(format!("{} is inside {hidden}, which the cluster replaces", state.display()));
            }
        }
        let mut command = Command::new("unshare");
        command.args([
            "--fork",
            "--pid",
            "--mount-proc",
            "--mount",
            "--net",
            "--propagation",
            "private",
            "--",
        ]);
        command.arg(pause).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let outer = command.spawn().map_err(|error| format!("failed to start unshare: {error}"))?.id();
        let deadline = Instant::now() + PROCESS_TIMEOUT;
        let id = loop {
            // The namespaces are complete once the child of `unshare` runs the program.
            let child = children(outer).into_iter().find(|&id| program(id).as_deref() == Some("pause"));
            if let Some(id) = child {
                break id;
            }
            if Instant::now() > deadline || identity(outer).is_none() {
                return Err("failed to create namespaces with unshare, which needs root".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let identity = identity(id).ok_or("the holder of the namespaces exited at its start")?;
        super::files::write_file(&state.join("holder"), &identity)?;
        let holder = Self { id, state: state.to_owned() };
        for (hidden, replacement) in HIDDEN {
            let replacement = state.join(replacement);
            std::fs::create_dir_all(&replacement)
                .map_err(|error| format!("failed to create {}: {error}", replacement.display()))?;
            succeed(holder.inside(Path::new("mount")).arg("--bind").arg(replacement).arg(hidden))?;
        }
        Ok(holder)
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Returns a command that runs in all namespaces of the cluster.
    pub(super) fn inside(&self, program: &Path) -> Command {
        self.enter(&["--mount", "--net", "--pid"], program)
    }

    /// Returns a command that runs on this machine, but in the network of the cluster.
    pub(super) fn in_network(&self, program: &Path) -> Command {
        self.enter(&["--net"], program)
    }

    fn enter(&self, namespaces: &[&str], program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.id.to_string()]).args(namespaces).arg("--").arg(program);
        command
    }

    /// Starts a program that keeps running, with its output in a log of its name.
    ///
    /// The holder becomes its parent. A parent on this machine would be suspended together with it, and could
    /// then not reap it, which would keep the PID namespace alive.
    pub(super) fn spawn(&self, program: &Path, arguments: &[String]) -> Result<(), String> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = self.state.join("log").join(format!("{name}.log"));
        let log =
            File::create(&log).map_err(|error| format!("failed to write {}: {error}", log.display()))?;
        let stderr = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = self.inside(Path::new("setsid"));
        command.arg("--fork").arg(program).args(arguments).stdin(Stdio::null()).stdout(log).stderr(stderr);
        succeed(&mut command).map_err(|error| format!("failed to start {name}: {error}"))
    }

    /// Returns the name and the id on this machine of each program of the cluster, without those in containers.
    pub(super) fn processes(&self) -> Result<Vec<(String, u32)>, String> {
        let own = pid_namespace(self.id).ok_or("the cluster has ended")?;
        let members = process_ids().into_iter().filter(|&id| pid_namespace(id).as_ref() == Some(&own));
        let mut named: Vec<(String, u32)> = members.filter_map(|id| Some((program(id)?, id))).collect();
        named.sort();
        Ok(named)
    }

    /// Returns a program that [`Self::spawn`] has started and that is no longer running.
    pub(super) fn exited_program(&self) -> Result<Option<String>, String> {
        let running = self.processes()?;
        let logs = std::fs::read_dir(self.state.join("log")).into_iter().flatten().flatten();
        let started =
            logs.filter_map(|log| log.file_name().to_str()?.strip_suffix(".log").map(str::to_owned));
        Ok(started.into_iter().find(|name| !running.iter().any(|(program, _)| program == name)))
    }

    /// True if a program of the cluster listens on a TCP port.
    pub(super) fn is_listening(&self, port: u16) -> bool {
        // Fields 2 and 4 of proc_net_tcp(5): address and port in hexadecimal, and the state.
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", self.id)).unwrap_or_default();
        let port = format!(":{port:04X}");
        table.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.len() > 3 && fields[1].ends_with(&port) && fields[3] == "0A"
        })
    }

    /// Ends every process of the cluster, and waits until the holder has exited.
    pub(super) fn end(&self) -> Result<(), String> {
        succeed(Command::new("kill").args(["-KILL", &self.id.to_string()]))?;
        let deadline = Instant::now() + PROCESS_TIMEOUT;
        while Self::find(&self.state).is_some() {
            if Instant::now() > deadline {
                return Err(format!("process {}, which holds the cluster, does not end", self.id));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Returns the id and the start time of a running process.
fn identity(id: u32) -> Option<String> {
    let fields = stat(id)?;
    // Fields 3 and 22 of proc(5): the state, and the start time in ticks since boot.
    (fields.first()? != "Z").then(|| format!("{id} {}", fields[19]))
}

/// Returns the fields of `/proc/ID/stat` after the name of the program, which may contain any character.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
    (fields.len() > 19).then_some(fields)
}

fn process_ids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn children(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    process_ids().into_iter().filter(|&id| stat(id).is_some_and(|fields| fields[1] == parent)).collect()
}

fn pid_namespace(id: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{id}/ns/pid")).ok()
}

/// Returns the file name of the program with which a process was started.
fn program(id: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let first = line.split(|&byte| byte == 0).next().filter(|first| !first.is_empty())?;
    Some(Path::new(&*String::from_utf8_lossy(first)).file_name()?.to_string_lossy().into_owned())
}

/// Returns the root of each control group hierarchy: one in cgroup v2, several in v1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

/// Creates a control group in each hierarchy.
pub(super) fn create_control_groups(name: &str) -> Result<(), String> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name);
        match std::fs::create_dir(&group) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(format!("failed to create {}: {error}", group.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes the control groups, and waits for those whose processes are still ending.
pub(super) fn remove_control_groups(name: &str) -> Result<(), String> {
    let deadline = Instant::now() + PROCESS_TIMEOUT;
    for group in hierarchies().into_iter().map(|hierarchy| hierarchy.join(name)) {
        while group.exists() {
            remove_group(&group);
            if Instant::now() > deadline {
                return Err(format!("failed to remove {}", group.display()));
            }
            if group.exists() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    Ok(())
}

/// Removes a control group and those below it. Its files vanish with it and cannot be removed themselves.
fn remove_group(group: &Path) {
    let inner = std::fs::read_dir(group).into_iter().flatten().flatten();
    for inner in inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_group(&inner.path());
    }
    let _ = std::fs::remove_dir(group);
}
