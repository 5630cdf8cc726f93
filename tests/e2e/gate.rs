//! A way to the API server that counts an operator's writes, and kills it around one of them.
//!
//! The operator is a process of its own, as in a cluster: what it did not write is lost with it. Reads
//! and watches pass as they are.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::Response,
};
use http::{Method, StatusCode};
use kube::Client;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    task::JoinHandle,
};

/// Longest body of a write.
const LONGEST: usize = 4 << 20;

/// Where the operator dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Its write with this number, from 1, never arrives.
    Before(u32),
    /// It arrives, and the operator never hears the answer.
    After(u32),
}

struct Passage {
    client: Client,
    writes: AtomicU32,
    blow: Mutex<Option<Blow>>,
    operator: Mutex<Option<Child>>,
}

/// The passage, and the operator that uses it. Both end with it.
pub struct Gate {
    passage: Arc<Passage>,
    serving: JoinHandle<std::io::Result<()>>,
    kubeconfig: tempfile::NamedTempFile,
    namespace: String,
}

impl Gate {
    /// Opens a passage for an operator of one namespace.
    pub async fn open(client: &Client, namespace: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let passage = Arc::new(Passage {
            client: client.clone(),
            writes: AtomicU32::new(0),
            blow: Mutex::new(None),
            operator: Mutex::new(None),
        });
        let app = Router::new().fallback(pass).with_state(Arc::clone(&passage));
        let serving = tokio::spawn(axum::serve(listener, app).into_future());
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "gate",
            "clusters": [{ "name": "gate", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "gate", "user": {} }],
            "contexts": [{ "name": "gate", "context": { "cluster": "gate", "user": "gate" } }],
        });
        std::fs::write(kubeconfig.path(), text.to_string()).unwrap();
        Self { passage, serving, kubeconfig, namespace: namespace.to_owned() }
    }

    /// Starts an operator, which dies where it is told to. Its writes are counted from here.
    pub fn start(&self, blow: Option<Blow>) {
        let program = std::env::var_os("PHASE6_E2E_OPERATOR").map(PathBuf::from);
        let program = program.expect("PHASE6_E2E_OPERATOR is the program phase6-operator");
        let mut command = Command::new(program);
        command.args(["--no-election", "--image=localhost/none:1", "--bind=127.0.0.1:0"]);
        command
            .arg(format!("--watch-namespaces={}", self.namespace))
            .env("KUBECONFIG", self.kubeconfig.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.passage.writes.store(0, Ordering::SeqCst);
        *self.passage.blow.lock() = blow;
        *self.passage.operator.lock() = Some(command.spawn().unwrap());
    }

    /// Writes since the start.
    pub fn writes(&self) -> u32 {
        self.passage.writes.load(Ordering::SeqCst)
    }

    /// Whether an operator runs.
    pub fn runs(&self) -> bool {
        self.passage.operator.lock().is_some()
    }

    /// Ends the operator, and waits until it is gone.
    pub async fn stop(&self) {
        let operator = self.passage.operator.lock().take();
        if let Some(mut operator) = operator {
            operator.kill().await.unwrap();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn pass(State(passage): State<Arc<Passage>>, request: Request) -> Response {
    let is_write = *request.method() != Method::GET;
    let number = if is_write { passage.writes.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
    let blow = passage.blow.lock().filter(|_| is_write);
    if blow == Some(Blow::Before(number)) {
        return passage.kill().await;
    }
    let (head, body) = request.into_parts();
    let body = to_bytes(body, LONGEST).await.unwrap().to_vec();
    let answer = passage.client.send(http::Request::from_parts(head, body.into())).await;
    if blow == Some(Blow::After(number)) {
        return passage.kill().await;
    }
    match answer {
        Ok(answer) => answer.map(Body::new),
        Err(error) => said(&error.to_string()),
    }
}

impl Passage {
    async fn kill(&self) -> Response {
        let operator = self.operator.lock().take();
        if let Some(mut operator) = operator {
            operator.kill().await.unwrap();
        }
        said("nobody hears this")
    }
}

fn said(what: &str) -> Response {
    let mut answer = Response::new(Body::from(what.to_owned()));
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
    answer
}
