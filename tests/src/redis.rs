//! A Redis of a test's own.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A server that this test may do anything to. Keeps nothing on disk, and ends with its handle.
pub struct Redis {
    pub port: u16,
    arguments: Vec<String>,
    password: Option<String>,
    process: Child,
    /// What a replica was sent is written here.
    folder: TempDir,
}

impl Redis {
    /// Starts one on a free port, with more arguments. `{port}` in them stands for that port; a test that
    /// names the port itself begins with `--port`.
    pub fn start(arguments: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let number = port.to_string();
        let mut all = vec!["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        if arguments.first() != Some(&"--port") {
            all.extend(["--port", &number]);
        }
        all.extend(arguments);
        Self::bare(port, all.iter().map(|argument| argument.replace("{port}", &number)).collect())
    }

    /// Starts one that listens at this port because its arguments say so.
    pub(crate) fn bare(port: u16, arguments: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = run(&folder, port, &arguments);
        Self { port, arguments, password: None, process, folder }
    }

    /// The same, for one that wants a password.
    pub(crate) fn locked(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Whether it runs.
    pub fn lives(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Starts it again where it was, empty.
    pub fn revive(&mut self) {
        self.process = run(&self.folder, self.port, &self.arguments);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Gives it a command; one that it refuses is a failure.
    pub fn say(&self, command: &str) {
        self.ask(command);
    }

    /// The answer to a command, which is one text or number.
    pub fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap()
    }

    /// The same, of a server that may break the connection: one that a sentinel tells whom to follow ends the
    /// connections of all its clients.
    pub(crate) fn try_ask(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let password = self.password.iter().map(|password| format!("AUTH {password}\r\n"));
        let all = password.chain([format!("{command}\r\n")]).collect::<String>();
        stream.write_all(all.as_bytes())?;
        let mut answers = BufReader::new(stream);
        let mut head = String::new();
        for _ in all.lines() {
            head.clear();
            if answers.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let (kind, rest) = head.trim_end().split_at_checked(1).unwrap_or_default();
        assert_ne!(kind, "-", "{command}: {rest}");
        if kind != "$" {
            return Ok(rest.to_owned());
        }
        let mut text = vec![0; rest.parse().unwrap_or(0)];
        answers.read_exact(&mut text)?;
        Ok(String::from_utf8(text).unwrap())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(folder: &TempDir, port: u16, arguments: &[String]) -> Child {
    let mut process = Command::new("redis-server")
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server can be started; cargo xtask test installs it");
    let due = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert_eq!(process.try_wait().unwrap(), None, "Redis did not start: {arguments:?}");
        assert!(Instant::now() < due, "Redis does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    process
}
