//! A server under measurement: started on a core of its own, under load, stopped.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A process that ends with this value.
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // nginx leaves its worker behind when it is killed, so it is asked.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// A server under measurement.
pub(super) struct Rival {
    _process: Running,
    /// The process that does the work.
    worker: u32,
    pub(super) url: String,
    /// Requests per second and microseconds of processor time per request, round by round.
    pub(super) rounds: Vec<(f64, f64)>,
}

impl Rival {
    /// Starts it, and waits until it listens.
    pub(super) fn start(command: Command, port: u16, path: &str) -> Result<Self, String> {
        let process = spawn(pinned(command, 0))?;
        wait_for(port)?;
        let worker = process.0.id();
        Ok(Self { _process: process, worker, url: format!("http://127.0.0.1:{port}{path}"), rounds: vec![] })
    }

    /// An nginx, whose worker does the work.
    pub(super) fn of_nginx(process: Running, port: u16, path: &str) -> Result<Self, String> {
        wait_for(port)?;
        let children = format!("/proc/{0}/task/{0}/children", process.0.id());
        let worker = std::fs::read_to_string(children)
            .ok()
            .and_then(|ids| ids.split_whitespace().next()?.parse().ok())
            .ok_or("nginx has no worker")?;
        Ok(Self { _process: process, worker, url: format!("http://127.0.0.1:{port}{path}"), rounds: vec![] })
    }

    /// The sum of a series of it.
    pub(super) fn series(&self, name: &str) -> Result<f64, String> {
        let url = self.url.replace("/api/v1/budget", "/metrics");
        let output = Command::new("curl").args(["-sf", "-m", "5", &url]).output();
        let output = output.map_err(|error| format!("cannot start curl: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let values = text.lines().filter(|line| line.starts_with(name));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// One round: as many requests as it answers in so long.
    pub(super) fn measure(&mut self, seconds: u32) -> Result<(), String> {
        let before = processor_time(self.worker)?;
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c64", &format!("-d{seconds}s"), &self.url]);
        let output = pinned(wrk, 1).output().map_err(|error| format!("cannot start wrk: {error}"))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if said.contains("Non-2xx") || said.contains("Socket errors") {
            return Err(format!("{}: {said}", self.url));
        }
        let requests: f64 = said
            .lines()
            .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
            .ok_or_else(|| format!("wrk said: {said}"))?;
        let took = processor_time(self.worker)?.saturating_sub(before);
        self.rounds.push((requests / f64::from(seconds), took.as_secs_f64() * 1e6 / requests));
        Ok(())
    }
}

/// The same command on one core, if there are more.
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
    command.spawn().map(Running).map_err(|error| format!("cannot start {name}: {error}"))
}

/// An nginx that passes requests on, limited by their client's address as our gateway limits them. `around` stands
/// beside the server, `more` within it.
pub(super) fn proxying(upstream: u16, port: u16, around: &str, more: &str) -> String {
    format!(
        "{around}
         limit_req_zone $binary_remote_addr zone=clients:10m rate=1000000r/s;
         upstream behind {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
         server {{
             listen 127.0.0.1:{port};
             location / {{
                 limit_req zone=clients burst=1000000 nodelay;
                 proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection \"\";
                 {more}
             }}
         }}"
    )
}

/// Starts an nginx of one worker with these servers.
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

/// User and system time that a process has used.
fn processor_time(process: u32) -> Result<Duration, String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).map_err(|error| error.to_string())?;
    // The name, in brackets, may hold spaces; ticks are hundredths of a second on every Linux.
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>());
    let ticks = fields
        .and_then(|fields| Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?));
    ticks.map(|ticks| Duration::from_millis(ticks * 10)).ok_or_else(|| "no processor time".to_owned())
}

pub(super) fn wait_for(port: u16) -> Result<(), String> {
    let due = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > due {
            return Err(format!("nobody answers at port {port}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// How long the answer at `url` is.
pub(super) fn body_size(url: &str) -> Result<usize, String> {
    let output = Command::new("curl").args(["-sf", "--retry", "5", "--retry-all-errors", url]).output();
    let output = output.map_err(|error| format!("cannot start curl: {error}"))?;
    if output.status.success() { Ok(output.stdout.len()) } else { Err(format!("{url} does not answer")) }
}
