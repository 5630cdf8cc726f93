//! Whole requests over loopback: our stack beside a bare axum service, our gateway beside nginx.
//!
//! The server that is measured has one core to itself, the load and the service behind the
//! gateway share another. `wrk` keeps 64 connections busy. Beside requests per second stands the
//! processor time per request, which the idleness of the other core does not touch.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{Effort, Row, median};

const ROUNDS: usize = 9;
const SECONDS: u32 = 3;

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // nginx leaves its worker behind when it is killed, so it is asked.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// A server under measurement.
struct Rival {
    _process: Running,
    /// The process that does the work.
    worker: u32,
    url: String,
    /// Requests per second and microseconds of processor time per request, round by round.
    rounds: Vec<(f64, f64)>,
}

pub(super) fn run(effort: Effort) -> Result<Vec<Row>, String> {
    let (rounds, seconds) = if effort == Effort::Measure { (ROUNDS, SECONDS) } else { (1, 1) };
    let folder = tempfolder()?;
    let program = |name: &str| effort.programs().join(name);
    let ports: Vec<u16> = free_ports(7)?;
    let &[hello, hit, upstream, proxy, gateway, caching_proxy, caching_gateway] = ports.as_slice() else {
        return Err("no ports".into());
    };

    let behind = nginx(
        &folder,
        "upstream",
        1,
        &format!(
            "server {{ listen 127.0.0.1:{upstream}; location / {{ default_type application/json; return 200 '{{\"ok\":true,\"budget\":{{\"total\":100.0,\"used\":12.5,\"remaining\":87.5}}}}'; }} }}"
        ),
    )?;
    wait_for(upstream)?;
    let policy = |name: &str, text: &str| -> Result<PathBuf, String> {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        Ok(path)
    };
    let open = r#""rateLimit":{"capacity":1000000,"refillPerSecond":1000000},"tracing":{"samplingRate":0.1}"#;
    let document = |policy: String| {
        format!(
            r#"{{"ownerUid":"bench","revision":1,"generation":1,"hash":"","publishedAt":"","policy":{{{policy}}}}}"#
        )
    };
    let cached = policy("cached.json", &document(format!(r#""cache":{{"ttl":"1h"}},{open}"#)))?;
    let passing = policy("passing.json", &document(open.to_owned()))?;
    let serve = |name: &str, port: u16, policy: &Path, more: &[&str]| {
        let mut command = Command::new(program("phase6"));
        command.args(["serve", name, "--port", &port.to_string(), "--policy"]).arg(policy);
        command.arg("--data").arg(folder.join(name)).args(more);
        command.env("OLLAMA_ENABLED", "false").env("LOCALAI_ENABLED", "false");
        command
    };
    let mut hit = Rival::start(serve("budget", hit, &cached, &[]), hit, "/api/v1/budget")?;
    let size = body_size(&hit.url)?;
    let mut bare = Command::new(program("hello"));
    bare.args([hello.to_string(), size.to_string()]);
    let mut bare = Rival::start(bare, hello, "/")?;
    let mut proxy = nginx(&folder, "proxy", 0, &proxying(upstream, proxy, "", ""))
        .and_then(|process| Rival::of_nginx(process, proxy, "/api/v1/budget"))?;
    let store = format!(
        "proxy_cache_path {} levels=1:2 keys_zone=answers:10m max_size=64m inactive=1h use_temp_path=off;
         open_file_cache max=1000 inactive=1h; sendfile on; tcp_nopush on;",
        folder.join("answers").display()
    );
    let cached_there =
        "proxy_cache answers; proxy_cache_valid 200 1h; add_header X-Cache $upstream_cache_status;";
    let mut caching_proxy =
        nginx(&folder, "caching", 0, &proxying(upstream, caching_proxy, &store, cached_there))
            .and_then(|process| Rival::of_nginx(process, caching_proxy, "/api/v1/budget"))?;
    let peer = ["--peer", &format!("budget=127.0.0.1:{upstream}")];
    let mut gateway = Rival::start(serve("web", gateway, &passing, &peer), gateway, "/api/v1/budget")?;
    let caching = serve("web", caching_gateway, &cached, &peer);
    let mut caching_gateway = Rival::start(caching, caching_gateway, "/api/v1/budget")?;

    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for rival in [&mut bare, &mut hit, &mut proxy, &mut gateway, &mut caching_proxy, &mut caching_gateway]
        {
            rival.measure(seconds)?;
        }
    }
    drop(behind);
    let rows = vec![
        row("The full stack on a cache hit, beside a bare axum hello", "at least 0.98", &hit, &bare, "hello"),
        row(
            "The gateway on a cache hit, beside nginx `proxy_cache` and `limit_req`",
            "at least 1.6",
            &caching_gateway,
            &caching_proxy,
            "nginx",
        ),
        row(
            "The gateway on a miss, beside nginx `proxy_pass` and `limit_req`",
            "at least 0.95",
            &gateway,
            &proxy,
            "nginx",
        ),
    ];
    drop((bare, hit, proxy, gateway, caching_proxy, caching_gateway));
    let _ = std::fs::remove_dir_all(folder);
    Ok(rows)
}

fn row(what: &'static str, goal: &'static str, ours: &Rival, other: &Rival, name: &str) -> Row {
    let ratios: Vec<f64> = ours.rounds.iter().zip(&other.rounds).map(|(a, b)| a.0 / b.0).collect();
    let column = |rival: &Rival, pick: fn(&(f64, f64)) -> f64| {
        median(&rival.rounds.iter().map(pick).collect::<Vec<_>>())
    };
    let (rate, cost) = (|round: &(f64, f64)| round.0, |round: &(f64, f64)| round.1);
    let mut sorted = ratios.clone();
    sorted.sort_by(f64::total_cmp);
    Row {
        what,
        goal,
        measured: format!("{:.2}", median(&ratios)),
        details: format!(
            "{:.0} requests/s beside {:.0} of {name}; {:.1} us of processor beside {:.1}; ratios of {} rounds from {:.2} to {:.2}",
            column(ours, rate),
            column(other, rate),
            column(ours, cost),
            column(other, cost),
            sorted.len(),
            sorted[0],
            sorted[sorted.len() - 1],
        ),
    }
}

impl Rival {
    fn start(command: Command, port: u16, path: &str) -> Result<Self, String> {
        let process = spawn(pinned(command, 0))?;
        wait_for(port)?;
        let worker = process.0.id();
        Ok(Self { _process: process, worker, url: format!("http://127.0.0.1:{port}{path}"), rounds: vec![] })
    }

    fn of_nginx(process: Running, port: u16, path: &str) -> Result<Self, String> {
        wait_for(port)?;
        let children = format!("/proc/{0}/task/{0}/children", process.0.id());
        let worker = std::fs::read_to_string(children)
            .ok()
            .and_then(|ids| ids.split_whitespace().next()?.parse().ok())
            .ok_or("nginx has no worker")?;
        Ok(Self { _process: process, worker, url: format!("http://127.0.0.1:{port}{path}"), rounds: vec![] })
    }

    fn measure(&mut self, seconds: u32) -> Result<(), String> {
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
fn proxying(upstream: u16, port: u16, around: &str, more: &str) -> String {
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
fn nginx(folder: &Path, name: &str, core: usize, servers: &str) -> Result<Running, String> {
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

fn wait_for(port: u16) -> Result<(), String> {
    let due = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > due {
            return Err(format!("nobody answers at port {port}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn body_size(url: &str) -> Result<usize, String> {
    let output = Command::new("curl").args(["-sf", "--retry", "5", "--retry-all-errors", url]).output();
    let output = output.map_err(|error| format!("cannot start curl: {error}"))?;
    if output.status.success() { Ok(output.stdout.len()) } else { Err(format!("{url} does not answer")) }
}

pub(super) fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listeners: Result<Vec<_>, _> =
        (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect();
    let listeners = listeners.map_err(|error| error.to_string())?;
    listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

pub(super) fn tempfolder() -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("phase6-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    Ok(folder)
}
