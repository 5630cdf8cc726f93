//! An HTTP server behind a gateway, whose responses the test sets and whose requests it sees byte for byte.

use std::{fmt::Write, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// Longer than any test.
const FOREVER: Duration = Duration::from_mins(10);

/// Bytes to send in response to a request, each piece after a pause. An empty piece closes the connection.
pub type Script = Vec<(Duration, Vec<u8>)>;

/// Response to a readiness probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    #[default]
    Ready,
    NotReady,
    /// No response at all.
    Silent,
}

/// Counts of readiness probes.
#[derive(Clone, Copy, Debug)]
pub struct ProbeCounts {
    pub received: u32,
    /// Most probes that waited for a response at the same time.
    pub most_concurrent: u32,
}

#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    requests: Vec<String>,
    script: Script,
    readiness: Readiness,
    probes_received: u32,
    probes_waiting: u32,
    most_probes_waiting: u32,
    /// Requests whose sender closed the connection before the response.
    abandoned: u32,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        upstream.respond("200 OK", &[("content-type", "text/plain")], "hello");
        let server = upstream.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(socket));
            }
        });
        upstream
    }

    async fn serve(self, mut socket: TcpStream) {
        let mut received = Vec::new();
        let mut buffer = vec![0; 65_536];
        loop {
            match socket.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => received.extend_from_slice(&buffer[..count]),
            }
            while let Some(end) = first_request_length(&received) {
                let request: Vec<u8> = received.drain(..end).collect();
                let text = String::from_utf8_lossy(&request).into_owned();
                let is_probe = text.starts_with("GET /readyz");
                let script = if is_probe { self.accept_probe() } else { self.accept_request(text) };
                for (pause, bytes) in script {
                    if wait_and_receive(&mut socket, &mut received, pause).await.is_err() {
                        let mut state = self.state.lock();
                        state.abandoned += u32::from(!is_probe);
                        state.probes_waiting -= u32::from(is_probe);
                        return;
                    }
                    if bytes.is_empty() || socket.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                if is_probe {
                    self.state.lock().probes_waiting -= 1;
                }
            }
        }
    }

    fn accept_request(&self, text: String) -> Script {
        let mut state = self.state.lock();
        state.requests.push(text);
        state.script.clone()
    }

    /// Counts a readiness probe, which is not among [`Self::requests`]: most tests do not care about probes.
    fn accept_probe(&self) -> Script {
        let mut state = self.state.lock();
        state.probes_received += 1;
        state.probes_waiting += 1;
        state.most_probes_waiting = state.most_probes_waiting.max(state.probes_waiting);
        match state.readiness {
            Readiness::Ready => response("200 OK", &[], "ok"),
            Readiness::NotReady => response("503 Service Unavailable", &[], "not ready"),
            Readiness::Silent => vec![(FOREVER, vec![])],
        }
    }

    /// Sets the response to readiness probes.
    pub fn set_readiness(&self, readiness: Readiness) {
        self.state.lock().readiness = readiness;
    }

    pub fn probes(&self) -> ProbeCounts {
        let state = self.state.lock();
        ProbeCounts { received: state.probes_received, most_concurrent: state.most_probes_waiting }
    }

    /// Number of requests whose sender closed the connection before the response.
    pub fn abandoned(&self) -> u32 {
        self.state.lock().abandoned
    }

    /// Sets the response to every further request.
    pub fn respond(&self, status: &str, headers: &[(&str, &str)], body: &str) {
        self.state.lock().script = response(status, headers, body);
    }

    /// Sets the bytes that are sent for every further request.
    pub fn respond_with(&self, script: Script) {
        self.state.lock().script = script;
    }

    /// Sends no response to any further request.
    pub fn stay_silent(&self) {
        self.respond_with(vec![(FOREVER, vec![])]);
    }

    /// Requests received so far, byte for byte.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }
}

/// Waits, and collects bytes that arrive meanwhile. Fails if the other side closes the connection.
async fn wait_and_receive(socket: &mut TcpStream, received: &mut Vec<u8>, pause: Duration) -> Result<(), ()> {
    let deadline = Instant::now() + pause;
    let mut buffer = vec![0; 65_536];
    while Instant::now() < deadline {
        match tokio::time::timeout_at(deadline, socket.read(&mut buffer)).await {
            Ok(Ok(count @ 1..)) => received.extend_from_slice(&buffer[..count]),
            Ok(_) => return Err(()),
            Err(_) => break,
        }
    }
    Ok(())
}

fn response(status: &str, headers: &[(&str, &str)], body: &str) -> Script {
    let mut text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    text.push_str(body);
    vec![(Duration::ZERO, text.into_bytes())]
}

/// Returns the length of the first request in `bytes`, or `None` if it is incomplete.
fn first_request_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let header = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    if header("transfer-encoding:").is_some_and(|value| value.contains("chunked")) {
        let end = bytes[head..].windows(5).position(|window| window == b"0\r\n\r\n")?;
        return Some(head + end + 5);
    }
    let length: usize = header("content-length:").and_then(|value| value.parse().ok()).unwrap_or(0);
    (bytes.len() >= head + length).then_some(head + length)
}
