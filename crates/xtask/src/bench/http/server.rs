//! Servers that are measured: started on a separate core, put under load, stopped.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A process that is terminated when this value is dropped.
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM, because nginx leaves its worker behind when it is killed.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Figures of one round.
pub(super) struct Round {
    pub(super) requests_per_second: f64,
    /// Microseconds of processor time per request.
    pub(super) microseconds: f64,
}

/// A server that is measured.
pub(super) struct Server {
    _process: Running,
    /// Id of the process whose processor time is measured.
    worker: u32,
    pub(super) url: String,
    pub(super) rounds: Vec<Round>,
}

impl Server {
    /// Starts a server, and waits until it listens.
    pub(super) fn start(command: Command, port: u16, path: &str) -> Result<Self, String> {
        let process = spawn(pinned(command, 0))?;
        wait_for(port)?;
        let worker = process.0.id();
        Ok(Self { _process: process, worker, url: format!("http://127.0.0.1:{port}{path}"), rounds: vec![] })
    }

    /// Returns an nginx, once it listens. Its worker is measured.
    pub(super) fn of_nginx(process: Running, port: u16, path: &str) -> Result<Self, String> {
        wait_for(port)?;
        let children = format!("/proc/{0}/task/{0}/children", process.0.id());
        let worker = std::fs::read_to_string(children)
            .ok()
            .and_then(|ids| ids.split_whitespace().next()?.parse().ok())
            .ok_or("nginx has no worker")?;
        Ok(Self { _process: process, worker, url: format!("http://127.0.0.1:{port}{path}"), rounds: vec![] })
    }

    /// Returns the sum of its series with this name.
    pub(super) fn series(&self, name: &str) -> Result<f64, String> {
        let url = self.url.replace(super::PATH, "/metrics");
        let output = Command::new("curl").args(["-sf", "-m", "5", &url]).output();
        let output = output.map_err(|error| format!("failed to start curl: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let values = text.lines().filter(|line| line.starts_with(name));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Runs one round of load.
    pub(super) fn measure(&mut self, seconds: u32) -> Result<(), String> {
        let before = processor_time(self.worker)?;
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c64", &format!("-d{seconds}s"), &self.url]);
        let output = pinned(wrk, 1).output().map_err(|error| format!("failed to start wrk: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.contains("Non-2xx") || text.contains("Socket errors") {
            return Err(format!("{}: {text}", self.url));
        }
        let requests: f64 = text
            .lines()
            .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
            .ok_or_else(|| format!("unexpected output of wrk: {text}"))?;
        let used = processor_time(self.worker)?.saturating_sub(before);
        self.rounds.push(Round {
            requests_per_second: requests / f64::from(seconds),
            microseconds: used.as_secs_f64() * 1e6 / requests,
        });
        Ok(())
    }
}

/// Returns the command pinned to one core, if the machine has more than one.
fn pinned(command: Command, core: usize) -> Command {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return command;
    }
    let mut outer = Command::new("taskset");
    outer.args(["-c", &core.to_string()]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            outer.env(name, value);
        }
    }
    outer
}

fn spawn(mut command: Command) -> Result<Running, String> {
    let name = command.get_args().nth(2).unwrap_or_default().to_string_lossy().into_owned();
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(Running).map_err(|error| format!("failed to start {name}: {error}"))
}

/// Returns the configuration of an nginx that forwards requests, with a limit per client address as our gateway
/// has. `outside` is added next to the server, `inside` to its location.
pub(super) fn reverse_proxy(upstream: u16, port: u16, outside: &str, inside: &str) -> String {
    format!(
        "{outside}
         limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;
         upstream service {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
         server {{
             listen 127.0.0.1:{port};
             location / {{
                 limit_req zone=clients burst=1000000 nodelay;
                 proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection \"\";
                 {inside}
             }}
         }}"
    )
}

/// Starts an nginx with one worker and this configuration of its servers.
pub(super) fn nginx(folder: &Path, name: &str, core: usize, servers: &str) -> Result<Running, String> {
    let path = folder.join(format!("{name}.conf"));
    let pid = folder.join(format!("{name}.pid"));
    let text = format!(
        "worker_processes 1; daemon off; pid {}; error_log /dev/null crit;
         events {{ worker_connections 4096; }}
         http {{ access_log off; keepalive_requests 1000000000; {servers} }}\n",
        pid.display()
    );
    std::fs::write(&path, text).map_err(|error| error.to_string())?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(path);
    spawn(pinned(command, core))
}

/// Returns the user and system time that a process has used.
fn processor_time(process: u32) -> Result<Duration, String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).map_err(|error| error.to_string())?;
    // The name in parentheses may contain spaces. A tick is a hundredth of a second on every Linux.
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>());
    let ticks = fields
        .and_then(|fields| Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?));
    ticks
        .map(|ticks| Duration::from_millis(ticks * 10))
        .ok_or_else(|| "unexpected format of /proc/PID/stat".to_owned())
}

pub(super) fn wait_for(port: u16) -> Result<(), String> {
    let due = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > due {
            return Err(format!("nothing listens on port {port} after 20 s"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Returns the length of the response body at `url`, in bytes.
pub(super) fn body_size(url: &str) -> Result<usize, String> {
    let output = Command::new("curl").args(["-sf", "--retry", "5", "--retry-all-errors", url]).output();
    let output = output.map_err(|error| format!("failed to start curl: {error}"))?;
    if output.status.success() { Ok(output.stdout.len()) } else { Err(format!("{url} does not respond")) }
}
