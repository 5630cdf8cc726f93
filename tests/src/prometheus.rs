//! A real Prometheus of a test's own.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{client, fleet::free_ports, root, until};

/// A Prometheus that scrapes services of this machine, knows the rules of the chart, and keeps exemplars.
pub struct Prometheus {
    port: u16,
    http: reqwest::Client,
    process: Child,
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes these ports, each as a pod of the namespace `n`.
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
        until("Prometheus is ready", || async {
            let ready = prometheus.http.get(format!("http://127.0.0.1:{port}/-/ready"));
            ready.timeout(Duration::from_secs(1)).send().await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        prometheus
    }

    /// What it answers to a question of its HTTP API.
    pub async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let pairs: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let url = format!("http://127.0.0.1:{}/api/v1/{path}?{}", self.port, pairs.join("&"));
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// The values of an expression now.
    ///
    /// # Panics
    ///
    /// Prometheus refuses it.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let answer = self.ask("query", &[("query", expression)]).await;
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }
}

fn encoded(text: &str) -> String {
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
