//! A real OpenTelemetry collector of a test's own.

use std::{
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::free_ports;

/// A collector that listens for OTLP on loopback and writes what it hears into a file.
pub struct Collector {
    http: u16,
    grpc: u16,
    process: Child,
    folder: TempDir,
}

/// A span as the collector understood it.
#[derive(Clone, Debug)]
pub struct Heard {
    /// What sent it, by attribute.
    pub resource: Value,
    /// The span in OTLP's JSON.
    pub span: Value,
}

impl Collector {
    pub fn start() -> Self {
        let base = free_ports();
        let (http, grpc) = (base, base + 1);
        let folder = tempfile::tempdir().unwrap();
        let process = run(&folder, http, grpc);
        Self { http, grpc, process, folder }
    }

    /// Where it takes Protobuf over HTTP.
    pub fn over_http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// Where it takes gRPC.
    pub fn over_grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again where it was. What it heard before is kept.
    pub fn revive(&mut self) {
        self.process = run(&self.folder, self.http, self.grpc);
    }

    /// Every span that it has heard.
    pub fn heard(&self) -> Vec<Heard> {
        let text = std::fs::read_to_string(self.folder.path().join("traces.json")).unwrap_or_default();
        // The last line may be half written.
        let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        messages.flat_map(|message| spans(&message)).collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Heard {
    /// An attribute of the span; null if it has none of this name.
    pub fn attribute(&self, name: &str) -> Value {
        attributes(&self.span["attributes"])[name].clone()
    }
}

fn spans(message: &Value) -> Vec<Heard> {
    let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut heard = vec![];
    for group in each(&message["resourceSpans"]) {
        let resource = attributes(&group["resource"]["attributes"]);
        let spans = each(&group["scopeSpans"]).into_iter().flat_map(|scope| each(&scope["spans"]));
        heard.extend(spans.map(|span| Heard { resource: resource.clone(), span }));
    }
    heard
}

/// OTLP's list of attributes as an object. 64-bit numbers come as text.
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

fn run(folder: &TempDir, http: u16, grpc: u16) -> Child {
    let program = std::env::var_os("PHASE6_TEST_COLLECTOR").map(PathBuf::from);
    let program = program.expect("PHASE6_TEST_COLLECTOR names the program; cargo xtask test builds it");
    let (config, file) = (folder.path().join("collector.yaml"), folder.path().join("traces.json"));
    let text = format!(
        "receivers:\n  otlp:\n    protocols:\n      http: {{endpoint: '127.0.0.1:{http}'}}\n      \
         grpc: {{endpoint: '127.0.0.1:{grpc}'}}\n\
         exporters:\n  file: {{path: '{}', flush_interval: 10ms, append: true}}\n\
         service:\n  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}\n  pipelines:\n    \
         traces: {{receivers: [otlp], exporters: [file]}}\n",
        file.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut process =
        Command::new(program).arg("--config").arg(&config).stdout(Stdio::null()).spawn().unwrap();
    let due = Instant::now() + Duration::from_secs(20);
    while [http, grpc].iter().any(|port| TcpStream::connect(("127.0.0.1", *port)).is_err()) {
        assert_eq!(process.try_wait().unwrap(), None, "the collector did not start");
        assert!(Instant::now() < due, "the collector does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    process
}
