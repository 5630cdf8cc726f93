//! A real OpenTelemetry collector, started for one test.

use std::{
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::free_ports;

/// A collector that accepts OTLP on loopback and writes the spans that it receives into a file.
pub struct Collector {
    http_port: u16,
    grpc_port: u16,
    process: Child,
    folder: TempDir,
}

/// A span as the collector decoded it.
#[derive(Clone, Debug)]
pub struct ReceivedSpan {
    /// Resource attributes of the sender, by name.
    pub resource: Value,
    /// The span in the JSON encoding of OTLP.
    pub span: Value,
}

impl Collector {
    pub fn start() -> Self {
        let base = free_ports();
        let (http_port, grpc_port) = (base, base + 1);
        let folder = tempfile::tempdir().unwrap();
        let process = run(&folder, http_port, grpc_port);
        Self { http_port, grpc_port, process, folder }
    }

    /// Endpoint for Protobuf over HTTP.
    pub fn http_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// Endpoint for gRPC.
    pub fn grpc_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc_port)
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Restarts the collector on its ports. Spans that it received before are kept.
    pub fn restart(&mut self) {
        self.process = run(&self.folder, self.http_port, self.grpc_port);
    }

    /// Every span received so far.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        let text = std::fs::read_to_string(self.folder.path().join("traces.json")).unwrap_or_default();
        // The last line may be incomplete.
        let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        messages.flat_map(|message| spans(&message)).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.kill();
    }
}

impl ReceivedSpan {
    /// An attribute of the span, or null if it has none of this name.
    pub fn attribute(&self, name: &str) -> Value {
        attributes(&self.span["attributes"])[name].clone()
    }
}

fn spans(message: &Value) -> Vec<ReceivedSpan> {
    let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut received = vec![];
    for group in each(&message["resourceSpans"]) {
        let resource = attributes(&group["resource"]["attributes"]);
        let spans = each(&group["scopeSpans"]).into_iter().flat_map(|scope| each(&scope["spans"]));
        received.extend(spans.map(|span| ReceivedSpan { resource: resource.clone(), span }));
    }
    received
}

/// Converts OTLP's list of attributes into an object. 64-bit integers are strings in this encoding.
fn attributes(list: &Value) -> Value {
    let pairs = list.as_array().into_iter().flatten().map(|pair| {
        let value = &pair["value"];
        let plain = match (&value["stringValue"], &value["intValue"]) {
            (Value::Null, number) => number.clone(),
            (text, _) => text.clone(),
        };
        (pair["key"].as_str().unwrap_or_default().to_owned(), plain)
    });
    Value::Object(pairs.collect())
}

fn run(folder: &TempDir, http_port: u16, grpc_port: u16) -> Child {
    let program = std::env::var_os("PHASE6_TEST_COLLECTOR").map(PathBuf::from);
    let program = program.expect("PHASE6_TEST_COLLECTOR names the program; cargo xtask test builds it");
    let (config, file) = (folder.path().join("collector.yaml"), folder.path().join("traces.json"));
    let text = format!(
        "receivers:\n  otlp:\n    protocols:\n      http: {{endpoint: '127.0.0.1:{http_port}'}}\n      \
         grpc: {{endpoint: '127.0.0.1:{grpc_port}'}}\n\
         exporters:\n  file: {{path: '{}', flush_interval: 10ms, append: true}}\n\
         service:\n  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}\n  pipelines:\n    \
         traces: {{receivers: [otlp], exporters: [file]}}\n",
        file.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut process =
        Command::new(program).arg("--config").arg(&config).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while [http_port, grpc_port].iter().any(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()) {
        assert_eq!(process.try_wait().unwrap(), None, "the collector exited at its start");
        assert!(Instant::now() < deadline, "the collector does not listen after 20 s");
        std::thread::sleep(Duration::from_millis(10));
    }
    process
}
