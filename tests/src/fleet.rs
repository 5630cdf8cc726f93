//! A fleet that runs: `phase6 up` as a process.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use phase6_catalog::{BASE_PORT, SERVICES, Service};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{client, program, root};

/// The example fleet.
pub const EXAMPLE: &str = include_str!("../../crds/examples/fleet.yaml");

/// The example with a smaller limit and a shorter TTL for `budget`.
pub fn retuned(text: &str) -> String {
    text.replace("capacity: 100\n", "capacity: 3\n").replace("ttl: 5s", "ttl: 2s")
}

/// The example without one service.
pub fn without(service: &str) -> String {
    let declares = format!("service: {service}\n");
    let documents = EXAMPLE.split("---\n").filter(|document| !document.contains(&declares));
    documents.collect::<Vec<_>>().join("---\n")
}

/// Runs the program where it is to end soon: exit code, standard error.
pub fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let mut program = Program::start(arguments, &[]);
    (program.end(Duration::from_secs(10)), program.errors())
}

/// A process of the program.
pub struct Program {
    process: Child,
    said: Arc<Mutex<Vec<(Instant, String)>>>,
    errors: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    pub fn start(arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        Self::start_in(&root(), arguments, settings)
    }

    /// The same in a folder.
    pub fn start_in(folder: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Settings of whoever runs the tests do not belong to them.
        for name in std::env::vars().map(|(name, _)| name).filter(|name| is_setting(name)) {
            command.env_remove(name);
        }
        for local in ["OLLAMA_ENABLED", "LOCALAI_ENABLED"] {
            command.env(local, "false");
        }
        command.envs(settings.iter().copied());
        let mut process = command.spawn().unwrap();
        let said: Arc<Mutex<Vec<(Instant, String)>>> = Arc::default();
        let errors: Arc<Mutex<Vec<String>>> = Arc::default();
        let out = BufReader::new(process.stdout.take().unwrap());
        let lines = Arc::clone(&said);
        let out = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                lines.lock().push((Instant::now(), line));
            }
        });
        let err = BufReader::new(process.stderr.take().unwrap());
        let lines = Arc::clone(&errors);
        let err = std::thread::spawn(move || {
            for line in err.lines().map_while(Result::ok) {
                lines.lock().push(line);
            }
        });
        Self { process, said, errors, readers: vec![out, err] }
    }

    /// Everything said on standard output.
    pub fn said(&self) -> String {
        self.said.lock().iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Everything said on standard error.
    pub fn errors(&self) -> String {
        self.errors.lock().join("\n")
    }

    /// Waits for a line that holds `text`, and tells when it came.
    pub fn hear(&self, text: &str) -> (Instant, String) {
        let due = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(heard) = self.said.lock().iter().find(|(_, line)| line.contains(text)) {
                return heard.clone();
            }
            assert!(Instant::now() < due, "never said {text:?}; said:\n{}\n{}", self.said(), self.errors());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end, and until its last words are read; the exit code.
    pub fn end(&mut self, within: Duration) -> Option<i32> {
        let due = Instant::now() + within;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                for reader in self.readers.drain(..) {
                    reader.join().unwrap();
                }
                return status.code();
            }
            assert!(Instant::now() < due, "did not end; said:\n{}\n{}", self.said(), self.errors());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_setting(name: &str) -> bool {
    ["_API_KEY", "_BASE_URL", "_ENABLED", "_MODEL"].iter().any(|end| name.ends_with(end))
        || name.starts_with("PHASE6_")
        || name.starts_with("OTEL_")
}

/// A fleet, its file and its folder.
pub struct Fleet {
    pub program: Program,
    pub file: PathBuf,
    pub base_port: u16,
    pub http: reqwest::Client,
    pub folder: tempfile::TempDir,
}

impl Fleet {
    /// The example fleet.
    pub fn start() -> Self {
        Self::with(EXAMPLE, &[], &[])
    }

    /// A fleet of a file's text, with more arguments and settings.
    pub fn with(text: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::in_folder(folder, text, arguments, settings)
    }

    /// The same in a folder that holds the records of another one.
    pub fn in_folder(
        folder: tempfile::TempDir,
        text: &str,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> Self {
        let file = folder.path().join("fleet.yaml");
        std::fs::write(&file, text).unwrap();
        let base_port = free_ports();
        let (data, port) = (folder.path().join("data"), base_port.to_string());
        let mut all =
            vec!["up", "-f", file.to_str().unwrap(), "--data", data.to_str().unwrap(), "--base-port", &port];
        all.extend(arguments);
        let program = Program::start(&all, settings);
        let fleet = Self { program, file, base_port, http: client(), folder };
        fleet.program.hear(" ready in ");
        fleet
    }

    pub fn port(&self, service: &str) -> u16 {
        Service::find(service).expect("a service of the catalog").port_from(self.base_port)
    }

    pub fn url(&self, service: &str, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port(service))
    }

    pub async fn get(&self, service: &str, path: &str) -> (u16, Value) {
        match self.http.get(self.url(service, path)).send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let text = answer.text().await.unwrap_or_default();
                (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
            }
            Err(_) => (0, Value::Null),
        }
    }

    /// Replaces the file's text, as an editor does that writes in place.
    pub fn save(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
    }

    /// Stops it as Ctrl-C does; the exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.program.signal(Signal::INT);
        self.program.end(Duration::from_secs(10))
    }
}

/// Returns the first of a range of free ports that is as wide as the fleet's.
pub fn free_ports() -> u16 {
    let width = SERVICES.iter().map(|service| service.port - BASE_PORT + 1).max().unwrap_or_default();
    // Below the range from which the system gives ports to clients.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 600) as u16 * 20;
    loop {
        let base = 10_000 + (start + NEXT.fetch_add(width, Ordering::Relaxed) % 12_000) % 12_000;
        if (base..base + width).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return base;
        }
    }
}
