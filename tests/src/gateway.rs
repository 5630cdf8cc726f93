//! A gateway alone, before upstreams of the test's own.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Program, Upstream, client, free_ports, until};

/// `phase6 serve web` as a process.
pub struct Gateway {
    pub program: Program,
    pub port: u16,
    pub http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Gateway {
    /// A gateway whose budget peer is at these endpoints.
    pub async fn start(endpoints: &[String], policy: Value, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.json");
        let document = json!({"ownerUid": "u", "revision": 3, "generation": 1, "hash": "", "publishedAt": "", "policy": policy});
        std::fs::write(&file, document.to_string()).unwrap();
        let port = free_ports();
        let peers = format!("budget={}", endpoints.join("+"));
        let data = folder.path().join("data");
        let arguments = [
            "serve",
            "web",
            "--port",
            &port.to_string(),
            "--peer",
            &peers,
            "--policy",
            file.to_str().unwrap(),
            "--data",
            data.to_str().unwrap(),
        ];
        let gateway =
            Self { program: Program::start(&arguments, settings), port, http: client(), _folder: folder };
        until("the gateway answers", || async { gateway.get("/readyz").await.is_some() }).await;
        gateway
    }

    /// A gateway before this upstream, under the default policy.
    pub async fn before(upstream: &Upstream) -> Self {
        Self::start(&[upstream.address.to_string()], json!({}), &[]).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub async fn get(&self, path: &str) -> Option<reqwest::Response> {
        self.http.get(self.url(path)).send().await.ok()
    }

    /// Sends bytes as they are; what comes back until the connection ends or falls silent.
    pub async fn raw(&self, bytes: &[u8]) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let mut buffer = vec![0; 16_384];
        while let Ok(Ok(count)) =
            tokio::time::timeout(Duration::from_millis(300), socket.read(&mut buffer)).await
        {
            if count == 0 {
                break;
            }
            answer.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// What the gateway shows of the budget peer.
    pub async fn budget(&self) -> Value {
        let shown: Value =
            self.get("/api/v1/loadbalance/health?service=budget").await.unwrap().json().await.unwrap();
        shown["health"]["budget"].clone()
    }

    /// What it shows of that peer's endpoint at `address`.
    pub async fn endpoint(&self, address: SocketAddr) -> Value {
        let endpoints = self.budget().await["endpoints"].as_array().unwrap().clone();
        endpoints.into_iter().find(|endpoint| endpoint["address"] == address.to_string()).unwrap()
    }

    /// Where it calls that peer.
    pub async fn called(&self) -> BTreeSet<String> {
        let endpoints = self.budget().await["endpoints"].as_array().unwrap().clone();
        endpoints.iter().map(|endpoint| endpoint["address"].as_str().unwrap().to_owned()).collect()
    }
}
