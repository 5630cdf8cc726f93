//! A real Redis, started for one test.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A server for one test alone, which may do anything to it. Persists nothing, and stops when it is dropped.
pub struct Redis {
    pub port: u16,
    arguments: Vec<String>,
    password: Option<String>,
    process: Child,
    /// Working directory, into which a replica writes the snapshot that its master sends.
    folder: TempDir,
}

impl Redis {
    /// Starts a server on a free port, with further arguments, in which `{port}` stands for that port. The
    /// arguments set the port themselves if they begin with `--port`.
    pub fn start(arguments: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let number = port.to_string();
        let mut all = vec!["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        if arguments.first() != Some(&"--port") {
            all.extend(["--port", &number]);
        }
        all.extend(arguments);
        let all = all.iter().map(|argument| argument.replace("{port}", &number)).collect();
        Self::with_arguments(port, all)
    }

    /// Starts a server whose arguments make it listen on this port.
    pub(crate) fn with_arguments(port: u16, arguments: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = run(&folder, port, &arguments);
        Self { port, arguments, password: None, process, folder }
    }

    /// Authenticates every command with a password.
    pub(crate) fn with_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Restarts the server on its port, without data.
    pub fn restart(&mut self) {
        self.process = run(&self.folder, self.port, &self.arguments);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Runs a command, which must succeed. Returns its reply, which must be a string or a number.
    pub fn command(&self, command: &str) -> String {
        self.try_command(command).unwrap()
    }

    /// Runs a command on a server that may close the connection: a sentinel that reconfigures a server
    /// closes the connections of all of its clients.
    pub(crate) fn try_command(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let password = self.password.iter().map(|password| format!("AUTH {password}\r\n"));
        let all = password.chain([format!("{command}\r\n")]).collect::<String>();
        stream.write_all(all.as_bytes())?;
        let mut replies = BufReader::new(stream);
        let mut head = String::new();
        for _ in all.lines() {
            head.clear();
            if replies.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let (kind, rest) = head.trim_end().split_at_checked(1).unwrap_or_default();
        assert_ne!(kind, "-", "{command}: {rest}");
        if kind != "$" {
            return Ok(rest.to_owned());
        }
        let mut text = vec![0; rest.parse().unwrap_or(0)];
        replies.read_exact(&mut text)?;
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
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert_eq!(process.try_wait().unwrap(), None, "Redis exited at its start: {arguments:?}");
        assert!(Instant::now() < deadline, "Redis does not listen after 10 s");
        std::thread::sleep(Duration::from_millis(5));
    }
    process
}
