//! A real Prometheus, started for one test.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{client, fleet::free_ports, root, wait_until};

/// A Prometheus that scrapes services on loopback, evaluates the rules of the chart, and stores exemplars.
pub struct Prometheus {
    port: u16,
    http: reqwest::Client,
    process: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts a Prometheus that scrapes these ports, each as a pod of the namespace `n`.
    pub async fn start(targets: &[u16]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let jobs = targets.iter().map(|port| {
            format!(
                "      - {{targets: ['127.0.0.1:{port}'], labels: {{namespace: n, pod: 'pod-{port}'}}}}\n"
            )
        });
        let text = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\nscrape_configs:\n  - job_name: services\n    static_configs:\n{}",
            root().join("charts/phase6/rules/phase6.yaml").display(),
            jobs.collect::<String>()
        );
        std::fs::write(&config, text).unwrap();
        let port = free_ports();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--enable-feature=exemplar-storage")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus can be started; cargo xtask test installs it");
        let prometheus = Self { port, http: client(), process, _folder: folder };
        wait_until("Prometheus is ready", || async {
            let ready = prometheus.http.get(format!("http://127.0.0.1:{port}/-/ready"));
            ready.timeout(Duration::from_secs(1)).send().await.is_ok_and(|response| response.status() == 200)
        })
        .await;
        prometheus
    }

    /// Response of Prometheus' API at `/api/v1/{path}`.
    pub async fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let pairs: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{name}={}", percent_encode(value))).collect();
        let url = format!("http://127.0.0.1:{}/api/v1/{path}?{}", self.port, pairs.join("&"));
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Current values of an expression, which must be valid.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let response = self.api("query", &[("query", expression)]).await;
        assert_eq!(response["status"], "success", "{expression}: {response}");
        response["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

fn percent_encode(text: &str) -> String {
    let each = |byte: u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(each).collect()
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
