//! An HTTP server below a gateway that does as it is told and remembers what it was sent, byte for
//! byte.

use std::{fmt::Write, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// What it sends for each request: bytes, with pauses between them.
pub type Script = Vec<(Duration, Vec<u8>)>;

#[derive(Clone)]
pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    script: Arc<Mutex<Script>>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream =
            Self { address: listener.local_addr().unwrap(), seen: Arc::default(), script: Arc::default() };
        upstream.answer("200 OK", &[("content-type", "text/plain")], "hello");
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let upstream = serving.clone();
                tokio::spawn(async move {
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
                            // Probes of its health are none of the test's business.
                            let probe = text.starts_with("GET /readyz");
                            if !probe {
                                upstream.seen.lock().push(text);
                            }
                            let script = if probe {
                                whole("200 OK", &[], "ok")
                            } else {
                                upstream.script.lock().clone()
                            };
                            for (pause, bytes) in script {
                                tokio::time::sleep(pause).await;
                                if bytes.is_empty() || socket.write_all(&bytes).await.is_err() {
                                    return;
                                }
                            }
                        }
                    }
                });
            }
        });
        upstream
    }

    /// Answers every request from now on with this.
    pub fn answer(&self, status: &str, headers: &[(&str, &str)], body: &str) {
        *self.script.lock() = whole(status, headers, body);
    }

    /// Sends exactly this for every request from now on; an empty piece closes the connection.
    pub fn script(&self, script: Script) {
        *self.script.lock() = script;
    }

    /// Requests so far, as they came.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().clone()
    }
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
