//! A gateway as a process, in front of upstreams that the test controls.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{Program, Upstream, client, free_ports, policy_document, wait_until};

/// Time without a byte after which a raw response counts as complete.
const SILENCE: Duration = Duration::from_millis(300);

/// The service `web` as a process: `phase6 serve web`.
pub struct Gateway {
    pub program: Program,
    pub port: u16,
    pub http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts a gateway whose peer `budget` has these endpoints.
    pub async fn start(endpoints: &[String], policy: Value, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.json");
        std::fs::write(&file, policy_document(3, 1, &policy)).unwrap();
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
        let program = Program::start(&arguments, environment);
        let gateway = Self { program, port, http: client(), _folder: folder };
        wait_until("the gateway responds", || async { gateway.get("/readyz").await.is_some() }).await;
        gateway
    }

    /// Starts a gateway for one upstream, with the default policy.
    pub async fn in_front_of(upstream: &Upstream) -> Self {
        Self::start(&[upstream.address.to_string()], json!({}), &[]).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub async fn get(&self, path: &str) -> Option<reqwest::Response> {
        self.http.get(self.url(path)).send().await.ok()
    }

    /// Sends bytes unchanged. Returns everything received until the connection ends or falls silent.
    pub async fn send_raw(&self, bytes: &[u8]) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut response = Vec::new();
        let mut buffer = vec![0; 16_384];
        while let Ok(Ok(count)) = tokio::time::timeout(SILENCE, socket.read(&mut buffer)).await {
            if count == 0 {
                break;
            }
            response.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&response).into_owned()
    }

    /// Health of the peer `budget`, as the gateway reports it.
    pub async fn budget_health(&self) -> Value {
        let report: Value =
            self.get("/api/v1/loadbalance/health?service=budget").await.unwrap().json().await.unwrap();
        report["health"]["budget"].clone()
    }

    /// Health of the endpoint of `budget` at `address`.
    pub async fn endpoint_health(&self, address: SocketAddr) -> Value {
        let endpoints = self.budget_health().await["endpoints"].as_array().unwrap().clone();
        endpoints.into_iter().find(|endpoint| endpoint["address"] == address.to_string()).unwrap()
    }

    /// Addresses of the endpoints of `budget`.
    pub async fn budget_addresses(&self) -> BTreeSet<String> {
        let endpoints = self.budget_health().await["endpoints"].as_array().unwrap().clone();
        endpoints.iter().map(|endpoint| endpoint["address"].as_str().unwrap().to_owned()).collect()
    }
}
