//! A Redis of a test's own.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A server that this test may do anything to. Keeps nothing on disk, and ends with its handle.
pub struct Redis {
    pub port: u16,
    arguments: Vec<String>,
    process: Child,
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
        let arguments = all.iter().map(|argument| argument.replace("{port}", &number)).collect::<Vec<_>>();
        let process = run(port, &arguments);
        Self { port, arguments, process }
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again where it was, empty.
    pub fn revive(&mut self) {
        self.process = run(self.port, &self.arguments);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Gives it a command; one that it refuses is a failure.
    pub fn say(&self, command: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "{command}\r\n").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(!answer.starts_with('-'), "{command}: {answer}");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn run(port: u16, arguments: &[String]) -> Child {
    let mut process = Command::new("redis-server")
        .args(arguments)
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
