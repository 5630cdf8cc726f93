//! Servers and programs that tests need.
//!
//! Missing Debian packages are installed if this process is root. A server listens on a free port, works in
//! its own folder, and stops when its value is dropped.

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::run::{find, is_root, succeed};

/// Longest wait for a server to accept connections.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running server.
pub(crate) struct Server {
    name: &'static str,
    process: Child,
    folder: PathBuf,
    /// URL for tests.
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
    // A test server may lose its data, and many tests connect at the same time.
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
    let process = command.spawn().map_err(|error| format!("failed to start {name}: {error}"))?;
    let mut server = Server { name, process, folder, url };
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Ok(Some(status)) = server.process.try_wait() {
            let mut errors = String::new();
            if let Some(stderr) = &mut server.process.stderr {
                let _ = stderr.read_to_string(&mut errors);
            }
            return Err(format!("{name} exited with {status}: {errors}"));
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        if Instant::now() > deadline {
            return Err(format!("{name} does not listen on port {port} after {} s", START_TIMEOUT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // The rest of its output is discarded: a full pipe would block the server.
    if let Some(mut stderr) = server.process.stderr.take() {
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        });
    }
    println!("{} is running at {}", server.name, server.url);
    Ok(server)
}

/// Installs the Debian package of a program, unless the program is there.
pub(crate) fn provide(program: &str, package: &str) -> Result<(), String> {
    if find(program).is_none() && !std::path::Path::new("/usr/sbin").join(program).is_file() {
        install(package)?;
    }
    Ok(())
}

/// Installs a Debian package. Fails if this process is not root.
pub(crate) fn install(package: &str) -> Result<(), String> {
    let remedy = format!("install it with `apt-get install {package}`");
    if !is_root() || find("apt-get").is_none() {
        return Err(format!("the Debian package {package} is missing; {remedy}"));
    }
    println!("installing the Debian package {package}");
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        // Keeps packages from starting their servers.
        command.env("RUNLEVEL", "1");
        succeed(&mut command)
    };
    if apt(&["install", "-y", "-q", "--no-install-recommends", package]).is_err() {
        apt(&["update", "-q"])?;
        apt(&["install", "-y", "-q", "--no-install-recommends", package])
            .map_err(|error| format!("{error}; {remedy}"))?;
    }
    Ok(())
}

/// Returns the folder of the programs of the newest installed PostgreSQL server.
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

/// Returns the ids of the user and the group of an account.
fn owner(name: &str) -> Result<(u32, u32), String> {
    let list = std::fs::read_to_string("/etc/passwd").map_err(|error| error.to_string())?;
    let line = list.lines().find(|line| line.starts_with(&format!("{name}:")));
    let ids = line.and_then(|line| {
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    ids.ok_or_else(|| format!("the user {name} does not exist"))
}

/// Returns the folder for data of tests, in memory where that is possible. On a disk, writes of the tests wait for
/// the journal of the file system, and so for builds at idle priority: up to a minute was seen.
pub(crate) fn temporary_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let probe = memory.join(format!("phase6-probe-{}", std::process::id()));
    let is_writable = std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe)).is_ok();
    if is_writable { memory } else { std::env::temp_dir() }
}

fn make_folder(name: &str) -> Result<PathBuf, String> {
    let folder = temporary_folder().join(format!("phase6-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("failed to create {}: {error}", folder.display()))?;
    Ok(folder)
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}
