//! A proxy between an operator and the API server that counts the operator's writes, and kills the operator
//! before or after one of them.
//!
//! The operator is a process, as in a cluster: what it has not written is lost with it. Reads and watches are
//! forwarded unchanged.

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

/// Longest body of a write, in bytes.
const MAX_BODY: usize = 4 << 20;

/// Time at which the operator is killed. Writes are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillPoint {
    /// Before this write reaches the API server.
    BeforeWrite(u32),
    /// After the API server has done this write, and before the operator gets the response.
    AfterWrite(u32),
}

struct ProxyState {
    client: Client,
    writes: AtomicU32,
    kill_point: Mutex<Option<KillPoint>>,
    operator: Mutex<Option<Child>>,
}

/// The proxy and the operator that uses it. Both end when it is dropped.
pub struct ApiProxy {
    state: Arc<ProxyState>,
    server: JoinHandle<std::io::Result<()>>,
    kubeconfig: tempfile::NamedTempFile,
    namespace: String,
}

impl ApiProxy {
    /// Starts the proxy for an operator of one namespace.
    pub async fn start(client: &Client, namespace: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ProxyState {
            client: client.clone(),
            writes: AtomicU32::new(0),
            kill_point: Mutex::new(None),
            operator: Mutex::new(None),
        });
        let app = Router::new().fallback(forward).with_state(Arc::clone(&state));
        let server = tokio::spawn(axum::serve(listener, app).into_future());
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{ "name": "proxy", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "proxy", "user": {} }],
            "contexts": [{ "name": "proxy", "context": { "cluster": "proxy", "user": "proxy" } }],
        });
        std::fs::write(kubeconfig.path(), text.to_string()).unwrap();
        Self { state, server, kubeconfig, namespace: namespace.to_owned() }
    }

    /// Starts an operator, which is killed at the kill point. Its writes are counted from 1.
    pub fn start_operator(&self, kill_point: Option<KillPoint>) {
        let program = std::env::var_os("PHASE6_E2E_OPERATOR").map(PathBuf::from);
        let program = program.expect("PHASE6_E2E_OPERATOR is the program phase6-operator");
        let mut command = Command::new(program);
        command.args(["--no-election", "--image=localhost/none:1", "--bind=127.0.0.1:0"]);
        command
            .arg(format!("--watch-namespaces={}", self.namespace))
            .env("KUBECONFIG", self.kubeconfig.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        self.state.writes.store(0, Ordering::SeqCst);
        *self.state.kill_point.lock() = kill_point;
        *self.state.operator.lock() = Some(command.spawn().unwrap());
    }

    /// Number of writes since the operator was started.
    pub fn writes(&self) -> u32 {
        self.state.writes.load(Ordering::SeqCst)
    }

    pub fn operator_is_running(&self) -> bool {
        self.state.operator.lock().is_some()
    }

    /// Ends the operator, and waits until it has exited.
    pub async fn stop_operator(&self) {
        self.state.kill_operator().await;
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn forward(State(state): State<Arc<ProxyState>>, request: Request) -> Response {
    let is_write = *request.method() != Method::GET;
    let number = if is_write { state.writes.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
    let kill_point = state.kill_point.lock().filter(|_| is_write);
    if kill_point == Some(KillPoint::BeforeWrite(number)) {
        state.kill_operator().await;
        return bad_gateway("the operator was killed before this write");
    }
    let (head, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.unwrap().to_vec();
    let response = state.client.send(http::Request::from_parts(head, body.into())).await;
    if kill_point == Some(KillPoint::AfterWrite(number)) {
        state.kill_operator().await;
        return bad_gateway("the operator was killed after this write");
    }
    match response {
        Ok(response) => response.map(Body::new),
        Err(error) => bad_gateway(&error.to_string()),
    }
}

impl ProxyState {
    async fn kill_operator(&self) {
        let operator = self.operator.lock().take();
        if let Some(mut operator) = operator {
            operator.kill().await.unwrap();
        }
    }
}

fn bad_gateway(message: &str) -> Response {
    let mut response = Response::new(Body::from(message.to_owned()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
