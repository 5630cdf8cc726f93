//! A fleet as a process: `phase6 up`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
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

/// Longest wait for a line of output.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the fleet with a smaller limit and a shorter TTL for `budget`.
pub fn retuned(text: &str) -> String {
    text.replace("capacity: 100\n", "capacity: 3\n").replace("ttl: 5s", "ttl: 2s")
}

/// Returns the example fleet without one service.
pub fn example_without(service: &str) -> String {
    let declaration = format!("service: {service}\n");
    let documents = EXAMPLE.split("---\n").filter(|document| !document.contains(&declaration));
    documents.collect::<Vec<_>>().join("---\n")
}

/// Runs the program, which must exit within 10 s. Returns its exit code and standard error.
pub fn run_to_exit(arguments: &[&str]) -> (Option<i32>, String) {
    let mut program = Program::start(arguments, &[]);
    (program.wait_for_exit(Duration::from_secs(10)), program.errors())
}

/// A line of output and the time at which it was read.
#[derive(Clone, Debug)]
pub struct Line {
    pub time: Instant,
    pub text: String,
}

type Lines = Arc<Mutex<Vec<Line>>>;

/// A running process of the program.
pub struct Program {
    process: Child,
    output: Lines,
    errors: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts the program in the root folder of the workspace, with these environment variables.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_in(&root(), arguments, environment)
    }

    /// Starts the program in a folder.
    pub fn start_in(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_build(program(), folder, arguments, environment)
    }

    /// Starts another build of the program.
    fn start_build(program: &Path, folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        // The developer's own settings must not change what a test sees.
        for name in std::env::vars().map(|(name, _)| name).filter(|name| is_setting(name)) {
            command.env_remove(name);
        }
        for local in ["OLLAMA_ENABLED", "LOCALAI_ENABLED"] {
            command.env(local, "false");
        }
        command.envs(environment.iter().copied());
        let mut process = command.spawn().unwrap();
        let (output, errors) = (Lines::default(), Lines::default());
        let readers = vec![
            collect_lines(process.stdout.take().unwrap(), &output),
            collect_lines(process.stderr.take().unwrap(), &errors),
        ];
        Self { process, output, errors, readers }
    }

    /// All standard output so far.
    pub fn output(&self) -> String {
        join(&self.output)
    }

    /// All standard error so far.
    pub fn errors(&self) -> String {
        join(&self.errors)
    }

    /// Waits for a line of standard output that contains `text`, and returns it.
    pub fn wait_for_output(&self, text: &str) -> Line {
        let deadline = Instant::now() + OUTPUT_TIMEOUT;
        loop {
            if let Some(line) = self.output.lock().iter().find(|line| line.text.contains(text)) {
                return line.clone();
            }
            assert!(
                Instant::now() < deadline,
                "no line contains {text:?}:\n{}\n{}",
                self.output(),
                self.errors()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// True if the process has exited.
    pub fn has_exited(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Waits until the process has exited and all of its output is read. Returns the exit code.
    pub fn wait_for_exit(&mut self, timeout: Duration) -> Option<i32> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                for reader in self.readers.drain(..) {
                    reader.join().unwrap();
                }
                return status.code();
            }
            assert!(
                Instant::now() < deadline,
                "still running after {timeout:?}:\n{}\n{}",
                self.output(),
                self.errors()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn collect_lines(stream: impl Read + Send + 'static, lines: &Lines) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for text in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().push(Line { time: Instant::now(), text });
        }
    })
}

fn join(lines: &Lines) -> String {
    lines.lock().iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
}

/// True for an environment variable that the program reads.
fn is_setting(name: &str) -> bool {
    let is_prefixed = ["PHASE6_", "OTEL_"].iter().any(|prefix| name.starts_with(prefix));
    is_prefixed || phase6_runner::setting_names().any(|declared| declared == name)
}

/// A running fleet, its file and its folder.
pub struct Fleet {
    pub program: Program,
    pub file: PathBuf,
    pub base_port: u16,
    pub http: reqwest::Client,
    pub folder: tempfile::TempDir,
}

impl Fleet {
    /// Starts the example fleet.
    pub fn start() -> Self {
        Self::with(EXAMPLE, &[], &[])
    }

    /// Starts a fleet with this text of its file, further arguments, and environment variables.
    pub fn with(text: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_build(program(), text, arguments, environment)
    }

    /// Starts a fleet with another build of the program.
    pub fn of_build(program: &Path, text: &str) -> Self {
        Self::start_build(program, text, &[], &[])
    }

    fn start_build(program: &Path, text: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fleet.yaml");
        std::fs::write(&file, text).unwrap();
        let base_port = free_ports();
        let (data, port) = (folder.path().join("data"), base_port.to_string());
        let mut all =
            vec!["up", "-f", file.to_str().unwrap(), "--data", data.to_str().unwrap(), "--base-port", &port];
        all.extend(arguments);
        let program = Program::start_build(program, &root(), &all, environment);
        let fleet = Self { program, file, base_port, http: client(), folder };
        fleet.program.wait_for_output(" ready in ");
        fleet
    }

    pub fn port(&self, service: &str) -> u16 {
        Service::find(service).expect("a service of the catalog").port_from(self.base_port)
    }

    pub fn url(&self, service: &str, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port(service))
    }

    /// Sends a GET request. Returns the status, 0 if there is no response, and the body, as JSON if it is JSON.
    pub async fn get(&self, service: &str, path: &str) -> (u16, Value) {
        match self.http.get(self.url(service, path)).send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                let text = response.text().await.unwrap_or_default();
                (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
            }
            Err(_) => (0, Value::Null),
        }
    }

    /// Replaces the text of the file in place, as some editors do.
    pub fn save(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
    }

    /// Stops the fleet as Ctrl-C does. Returns the exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.program.signal(Signal::INT);
        self.program.wait_for_exit(Duration::from_secs(10))
    }
}

/// Returns the first port of a free range that is as wide as the ports of a fleet. No other test gets it while this
/// process runs: a service that starts late would find its port taken, and its test would call another service.
pub fn free_ports() -> u16 {
    static LOCKS: Mutex<Vec<File>> = Mutex::new(vec![]);
    let width = SERVICES.iter().map(|service| service.port - BASE_PORT + 1).max().unwrap_or_default();
    let folder = std::env::temp_dir().join("phase6-test-ports");
    std::fs::create_dir_all(&folder).unwrap();
    // Below the range from which the system assigns ports to clients.
    for base in (10_000..22_000).step_by(usize::from(width)) {
        let lock = File::create(folder.join(base.to_string())).unwrap();
        let is_free = || (base..base + width).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        if lock.try_lock().is_ok() && is_free() {
            LOCKS.lock().push(lock);
            return base;
        }
    }
    panic!("no free range of {width} ports");
}
