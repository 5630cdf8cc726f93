//! The servers that tests need: installed where we may, started on free ports in folders of their
//! own, stopped by their process when dropped.

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::run::{find, is_root, succeed};

/// Longest wait for a server to answer.
const START: Duration = Duration::from_secs(30);

/// A server that runs.
pub(crate) struct Server {
    name: &'static str,
    process: Child,
    folder: PathBuf,
    /// Where tests find it.
    pub(crate) url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Starts PostgreSQL.
pub(crate) fn postgres() -> Result<Server, String> {
    if postgres_folder().is_none() {
        install("postgresql")?;
    }
    let bin = postgres_folder().ok_or("PostgreSQL is installed but its programs are not found")?;
    let folder = make_folder("postgres")?;
    let data = folder.join("data");
    // The server refuses to run as root.
    let user = if is_root() { Some(owner("postgres")?) } else { None };
    if let Some((uid, gid)) = user {
        std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).map_err(|error| error.to_string())?;
    }
    let command = |program: &str| {
        let mut command = Command::new(bin.join(program));
        command.current_dir(&folder).stdout(Stdio::null());
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid).env("HOME", &folder);
        }
        command
    };
    succeed(command("initdb").arg("-D").arg(&data).args([
        "-A",
        "trust",
        "-U",
        "postgres",
        "-E",
        "UTF8",
        "--locale=C",
    ]))?;
    let port = free_port()?;
    let mut server = command("postgres");
    server.arg("-D").arg(&data).arg("-k").arg(&folder).args(["-p", &port.to_string()]);
    // A test server may lose its data, and is asked by many tests at once.
    for setting in ["listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off", "max_connections=300"]
    {
        server.args(["-c", setting]);
    }
    let url = format!("postgres://postgres@127.0.0.1:{port}");
    start("PostgreSQL", server, folder, port, url)
}

/// Starts Redis.
pub(crate) fn redis() -> Result<Server, String> {
    provide("redis-server", "redis-server")?;
    let folder = make_folder("redis")?;
    let port = free_port()?;
    let mut server = Command::new("redis-server");
    server.current_dir(&folder).stdout(Stdio::null());
    server.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
    start("Redis", server, folder, port, format!("redis://127.0.0.1:{port}"))
}

fn start(
    name: &'static str,
    mut command: Command,
    folder: PathBuf,
    port: u16,
    url: String,
) -> Result<Server, String> {
    command.stderr(Stdio::piped()).stdin(Stdio::null());
    let process = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
    let mut server = Server { name, process, folder, url };
    let due = Instant::now() + START;
    loop {
        if let Ok(Some(status)) = server.process.try_wait() {
            let mut told = String::new();
            if let Some(stderr) = &mut server.process.stderr {
                let _ = stderr.read_to_string(&mut told);
            }
            return Err(format!("{name} ended with {status}: {told}"));
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        if Instant::now() > due {
            return Err(format!("{name} does not answer at port {port}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Nobody reads what it says from now on; a full pipe must not stop it.
    if let Some(mut stderr) = server.process.stderr.take() {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        });
    }
    println!("{} runs at {}", server.name, server.url);
    Ok(server)
}

/// Sees to it that a program is there, by a Debian package if need be.
pub(crate) fn provide(program: &str, package: &str) -> Result<(), String> {
    if find(program).is_none() && !std::path::Path::new("/usr/sbin").join(program).is_file() {
        install(package)?;
    }
    Ok(())
}

/// Installs a Debian package, if this process may.
pub(crate) fn install(package: &str) -> Result<(), String> {
    let how = format!("install it: apt-get install {package}");
    if !is_root() || find("apt-get").is_none() {
        return Err(format!("the Debian package {package} is missing; {how}"));
    }
    println!("installing the Debian package {package}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        // A package must not start its own server.
        command.env("RUNLEVEL", "1");
        succeed(&mut command)
    };
    if apt(&["install", "-y", "-q", "--no-install-recommends", package]).is_err() {
        apt(&["update", "-q"])?;
        apt(&["install", "-y", "-q", "--no-install-recommends", package])
            .map_err(|error| format!("{error}; {how}"))?;
    }
    Ok(())
}

/// The folder of the newest PostgreSQL server's programs.
pub(crate) fn postgres_folder() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file())
        .collect();
    versions.sort();
    versions.pop().or_else(|| Some(find("initdb")?.parent()?.to_owned()))
}

/// User and group of a name, from the system's list.
fn owner(name: &str) -> Result<(u32, u32), String> {
    let list = std::fs::read_to_string("/etc/passwd").map_err(|error| error.to_string())?;
    let line = list.lines().find(|line| line.starts_with(&format!("{name}:")));
    let ids = line.and_then(|line| {
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    ids.ok_or_else(|| format!("there is no user {name}"))
}

fn make_folder(name: &str) -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("phase6-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    Ok(folder)
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}
