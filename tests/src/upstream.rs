//! An HTTP server below a gateway that does as it is told and remembers what it was sent, byte for
//! byte.

use std::{fmt::Write, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};

/// What it sends for each request: bytes, with pauses between them.
pub type Script = Vec<(Duration, Vec<u8>)>;

/// How it answers those who ask whether it is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Probes {
    #[default]
    Ready,
    NotReady,
    /// It never answers them.
    Silent,
}

#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    seen: Vec<String>,
    script: Script,
    probes: Probes,
    /// Probes that came, that wait for an answer, and the most that waited at once.
    probed: u32,
    waiting: u32,
    most_waiting: u32,
    /// Connections that the other side closed while it waited for an answer.
    given_up: u32,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        upstream.answer("200 OK", &[("content-type", "text/plain")], "hello");
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(socket));
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
            while let Some(end) = whole_request(&received) {
                let request: Vec<u8> = received.drain(..end).collect();
                let text = String::from_utf8_lossy(&request).into_owned();
                let probe = text.starts_with("GET /readyz");
                let script = if probe { self.probe() } else { self.request(text) };
                for (pause, bytes) in script {
                    let left = patient(&mut socket, &mut received, pause).await.is_err();
                    if left {
                        let mut state = self.state.lock();
                        state.given_up += u32::from(!probe);
                        state.waiting -= u32::from(probe);
                        return;
                    }
                    if bytes.is_empty() || socket.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                if probe {
                    self.state.lock().waiting -= 1;
                }
            }
        }
    }

    fn request(&self, text: String) -> Script {
        let mut state = self.state.lock();
        state.seen.push(text);
        state.script.clone()
    }

    /// Probes of its health are none of most tests' business, and not among what was seen.
    fn probe(&self) -> Script {
        let mut state = self.state.lock();
        state.probed += 1;
        state.waiting += 1;
        state.most_waiting = state.most_waiting.max(state.waiting);
        match state.probes {
            Probes::Ready => whole("200 OK", &[], "ok"),
            Probes::NotReady => whole("503 Service Unavailable", &[], "not ready"),
            Probes::Silent => vec![(Duration::from_mins(10), vec![])],
        }
    }

    /// Answers probes like this from now on.
    pub fn probes(&self, probes: Probes) {
        self.state.lock().probes = probes;
    }

    /// Probes that came so far, and the most that waited for an answer at once.
    pub fn probed(&self) -> (u32, u32) {
        let state = self.state.lock();
        (state.probed, state.most_waiting)
    }

    /// Requests whose sender closed the connection before the answer.
    pub fn given_up(&self) -> u32 {
        self.state.lock().given_up
    }

    /// Answers every request from now on with this.
    pub fn answer(&self, status: &str, headers: &[(&str, &str)], body: &str) {
        self.state.lock().script = whole(status, headers, body);
    }

    /// Sends exactly this for every request from now on; an empty piece closes the connection.
    pub fn script(&self, script: Script) {
        self.state.lock().script = script;
    }

    /// Requests so far, as they came.
    pub fn seen(&self) -> Vec<String> {
        self.state.lock().seen.clone()
    }
}

/// Waits, and keeps what comes meanwhile; an error when the other side has gone.
async fn patient(socket: &mut TcpStream, received: &mut Vec<u8>, pause: Duration) -> Result<(), ()> {
    let due = Instant::now() + pause;
    let mut buffer = vec![0; 65_536];
    while Instant::now() < due {
        match tokio::time::timeout_at(due, socket.read(&mut buffer)).await {
            Ok(Ok(count @ 1..)) => received.extend_from_slice(&buffer[..count]),
            Ok(_) => return Err(()),
            Err(_) => break,
        }
    }
    Ok(())
}

fn whole(status: &str, headers: &[(&str, &str)], body: &str) -> Script {
    let mut text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    text.push_str(body);
    vec![(Duration::ZERO, text.into_bytes())]
}

/// The length of the first request, if all of it has come.
fn whole_request(bytes: &[u8]) -> Option<usize> {
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
