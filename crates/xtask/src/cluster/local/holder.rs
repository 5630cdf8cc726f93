//! The process that holds the cluster's namespaces, and what is done inside them.
//!
//! It is the first process of a process namespace: the kernel ends all the others when it ends.
//! Its id is kept in a file together with the moment it started, so that an id that was given away
//! since is never mistaken for it.

use std::{
    fs::File,
    io::ErrorKind,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::run::succeed;

/// Longest wait for processes to be gone.
const END: Duration = Duration::from_secs(20);
/// What the cluster sees its own folders of, and the folder of the state that stands for it.
const HIDDEN: [(&str, &str); 3] = [("/run", "run"), ("/var/lib", "lib"), ("/var/log", "log")];

pub(super) struct Holder {
    id: u32,
    state: PathBuf,
}

impl Holder {
    /// The holder of the cluster whose state is in this folder, if it lives.
    pub(super) fn find(state: &Path) -> Option<Self> {
        let kept = std::fs::read_to_string(state.join("holder")).ok()?;
        let id: u32 = kept.split_whitespace().next()?.parse().ok()?;
        (mark(id)? == kept).then(|| Self { id, state: state.to_owned() })
    }

    /// Makes the namespaces.
    pub(super) fn start(state: &Path, pause: &Path) -> Result<Self, String> {
        for (hidden, _) in HIDDEN {
            if state.starts_with(hidden) {
                return Err(format!("{} is below {hidden}, which the cluster hides", state.display()));
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
        let outer = command.spawn().map_err(|error| format!("cannot start unshare: {error}"))?.id();
        let due = Instant::now() + END;
        let id = loop {
            // The namespaces are made when its child has become the program.
            let child = children(outer).into_iter().find(|&id| program(id).as_deref() == Some("pause"));
            if let Some(id) = child {
                break id;
            }
            if Instant::now() > due || mark(outer).is_none() {
                return Err("cannot make namespaces: unshare gave none (root is needed)".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mark = mark(id).ok_or("the holder of the namespaces ended at once")?;
        super::files::put(&state.join("holder"), &mark)?;
        let holder = Self { id, state: state.to_owned() };
        for (hidden, ours) in HIDDEN {
            let ours = state.join(ours);
            std::fs::create_dir_all(&ours)
                .map_err(|error| format!("cannot make {}: {error}", ours.display()))?;
            succeed(holder.inside(Path::new("mount")).arg("--bind").arg(ours).arg(hidden))?;
        }
        Ok(holder)
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// A program in all of the cluster's namespaces.
    pub(super) fn inside(&self, program: &Path) -> Command {
        self.enter(&["--mount", "--net", "--pid"], program)
    }

    /// A program of this machine that only shares the cluster's network.
    pub(super) fn in_network(&self, program: &Path) -> Command {
        self.enter(&["--net"], program)
    }

    fn enter(&self, namespaces: &[&str], program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.id.to_string()]).args(namespaces).arg("--").arg(program);
        command
    }

    /// Starts a program that stays, with what it says in a file of its name. The holder becomes its
    /// parent: a program of this machine that waited for it would stop when it is stopped, and would
    /// then keep its remains, and with them the namespace.
    pub(super) fn spawn(&self, program: &Path, arguments: &[String]) -> Result<(), String> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = self.state.join("log").join(format!("{name}.log"));
        let log = File::create(&log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let also = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = self.inside(Path::new("setsid"));
        command.arg("--fork").arg(program).args(arguments).stdin(Stdio::null()).stdout(log).stderr(also);
        succeed(&mut command).map_err(|error| format!("cannot start {name}: {error}"))
    }

    /// The cluster's own programs, containers aside, with the ids that this machine knows them by.
    pub(super) fn processes(&self) -> Result<Vec<(String, u32)>, String> {
        let space = namespace(self.id).ok_or("the cluster ended")?;
        let members = everyone().into_iter().filter(|&id| namespace(id).as_ref() == Some(&space));
        let mut named: Vec<(String, u32)> = members.filter_map(|id| Some((program(id)?, id))).collect();
        named.sort();
        Ok(named)
    }

    /// A program that was started to stay and is not there.
    pub(super) fn ended(&self) -> Result<Option<String>, String> {
        let there = self.processes()?;
        let logs = std::fs::read_dir(self.state.join("log")).into_iter().flatten().flatten();
        let started =
            logs.filter_map(|log| log.file_name().to_str()?.strip_suffix(".log").map(str::to_owned));
        Ok(started.into_iter().find(|name| !there.iter().any(|(program, _)| program == name)))
    }

    /// Whether a program of the cluster listens at a port of TCP.
    pub(super) fn listens(&self, port: u16) -> bool {
        // Fields 2 and 4 of proc_net_tcp(5): address and port in hexadecimal digits, and the state.
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", self.id)).unwrap_or_default();
        let port = format!(":{port:04X}");
        table.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.len() > 3 && fields[1].ends_with(&port) && fields[3] == "0A"
        })
    }

    /// Ends every process of the cluster, and waits until they are gone.
    pub(super) fn end(&self) -> Result<(), String> {
        succeed(Command::new("kill").args(["-KILL", &self.id.to_string()]))?;
        let due = Instant::now() + END;
        while Self::find(&self.state).is_some() {
            if Instant::now() > due {
                return Err(format!("process {}, which holds the cluster, does not end", self.id));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// An id and the moment that its process started. None once it has ended.
fn mark(id: u32) -> Option<String> {
    let fields = stat(id)?;
    // Fields 3 and 22 of proc(5): its state, and its start in ticks since boot.
    (fields.first()? != "Z").then(|| format!("{id} {}", fields[19]))
}

/// The fields of /proc/ID/stat after the program's name, which may hold anything.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
    (fields.len() > 19).then_some(fields)
}

fn everyone() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn children(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    everyone().into_iter().filter(|&id| stat(id).is_some_and(|fields| fields[1] == parent)).collect()
}

fn namespace(id: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{id}/ns/pid")).ok()
}

/// The file name of what a process was started as.
fn program(id: u32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let first = line.split(|&byte| byte == 0).next().filter(|first| !first.is_empty())?;
    Some(Path::new(&*String::from_utf8_lossy(first)).file_name()?.to_string_lossy().into_owned())
}

/// The folders in which control groups are made: one for each hierarchy, or the only one.
fn hierarchies() -> Vec<PathBuf> {
    let all = Path::new("/sys/fs/cgroup");
    if all.join("cgroup.controllers").exists() {
        return vec![all.to_owned()];
    }
    let entries = std::fs::read_dir(all).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_dir() && !path.is_symlink()).collect()
}

pub(super) fn make_control_groups(name: &str) -> Result<(), String> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name);
        match std::fs::create_dir(&group) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(format!("cannot make {}: {error}", group.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes the groups; those whose processes are just ending are waited for.
pub(super) fn remove_control_groups(name: &str) -> Result<(), String> {
    let due = Instant::now() + END;
    for group in hierarchies().into_iter().map(|hierarchy| hierarchy.join(name)) {
        while group.exists() {
            remove_group(&group);
            if Instant::now() > due {
                return Err(format!("cannot remove {}", group.display()));
            }
            if group.exists() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    Ok(())
}

/// Its files cannot be removed, and need not be.
fn remove_group(group: &Path) {
    let inner = std::fs::read_dir(group).into_iter().flatten().flatten();
    for inner in inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_group(&inner.path());
    }
    let _ = std::fs::remove_dir(group);
}
