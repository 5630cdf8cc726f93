//! Records during faults: a process killed in the middle of writes, a full disk, a database that is unreachable.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    collections::BTreeSet,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use phase6_tests::{Program, client, free_ports, phase6, policy_document, program, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// The service `budget` with a data folder that outlives it.
struct Budget {
    program: Program,
    port: u16,
    http: reqwest::Client,
}

impl Budget {
    async fn start(data: &Path, options: &[&str]) -> Self {
        let port = free_ports();
        let text = port.to_string();
        let mut arguments = vec!["serve", "budget", "--port", &text, "--data", data.to_str().unwrap()];
        arguments.extend(options);
        let budget = Self { program: Program::start(&arguments, &[]), port, http: client() };
        wait_until("the service is ready", || async { budget.get("/readyz").await.0 == 200 }).await;
        budget
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        send(self.http.get(self.url(path))).await
    }

    /// Records the cost of a workflow.
    async fn record(&self, workflow: &str) -> (u16, Value) {
        let body = json!({"cohortId": "c", "workflowId": workflow, "provider": "openai", "cost": 0.01});
        send(self.http.post(self.url("/api/v1/budget/record-workflow")).json(&body)).await
    }
}

/// Returns status and body of the response; status 0 if there is none.
async fn send(request: reqwest::RequestBuilder) -> (u16, Value) {
    match request.send().await {
        Ok(response) => {
            let status = response.status().as_u16();
            (status, response.json().await.unwrap_or(Value::Null))
        }
        Err(_) => (0, Value::Null),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_in_the_middle_of_writes_lose_no_acknowledged_record() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    for round in 0..50 {
        let budget = Arc::new(Budget::start(&data, &[]).await);
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (budget, stop, acknowledged) =
                    (Arc::clone(&budget), Arc::clone(&stop), Arc::clone(&acknowledged));
                tokio::spawn(async move {
                    for number in 0.. {
                        let name = format!("{round}-{writer}-{number}");
                        match budget.record(&name).await.0 {
                            200 => {
                                acknowledged.lock().insert(name);
                            }
                            0 => return,
                            other => panic!("{other}"),
                        }
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                })
            })
            .collect();
        let before = acknowledged.lock().len();
        wait_until("a record is written", || async { acknowledged.lock().len() > before }).await;
        // Each round kills at another time.
        tokio::time::sleep(Duration::from_millis(round % 25)).await;
        budget.program.signal(Signal::KILL);
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
    }
    let budget = Budget::start(&data, &[]).await;
    let acknowledged = acknowledged.lock().clone();
    assert!(acknowledged.len() >= 50);
    let (_, metrics) = budget.get("/api/v1/budget/metrics/c").await;
    let stored = metrics["metrics"]["workflowsExecuted"].as_u64().unwrap();
    // Records that were written but not acknowledged may be there too.
    assert!(stored >= acknowledged.len() as u64, "{stored} of {}", acknowledged.len());
    for name in &acknowledged {
        let (status, body) = budget.record(name).await;
        assert_eq!((status, &body["recorded"]), (200, &json!(false)), "{name} is lost");
    }
}

#[test]
fn a_data_folder_that_is_not_writable_is_reported_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let inside = file.join("data");
    // The first one is below a file, the second one on a file system without ordinary files.
    for data in [inside.to_str().unwrap(), "/proc/phase6"] {
        let result = phase6(&["up", "--data", data]);
        assert_eq!(result.code, 1);
        assert!(
            result.errors.contains(&format!("cannot write to the data folder {data}"))
                && result.errors.contains("--data DIR"),
            "{}",
            result.errors
        );
    }
}

#[tokio::test]
async fn writes_to_a_full_disk_fail_with_503_and_reads_still_work() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let port = free_ports();
    // With a limit on the size of files, whose signal is ignored, writes fail as on a full disk.
    let mut process = tokio::process::Command::new("sh")
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 1200; exec \"$0\" \"$@\"")
        .arg(program())
        .args(["serve", "budget", "--port", &port.to_string(), "--data", data.to_str().unwrap()])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let http = client();
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    wait_until("the service is ready", || async { send(http.get(url("/readyz"))).await.0 == 200 }).await;
    let mut refused = None;
    for number in 0..20_000 {
        let body = json!({"cohortId": "c".repeat(100), "workflowId": format!("{number}-{}", "w".repeat(100)), "provider": "openai", "cost": 1});
        let response = http.post(url("/api/v1/budget/record-workflow")).json(&body).send().await.unwrap();
        if response.status() != 200 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("the limit is below the size of all records");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["code"], "database_unavailable");
    assert_eq!(send(http.get(url("/api/v1/budget"))).await.0, 200, "reads still work");
    assert_eq!(send(http.get(url("/readyz"))).await.0, 200);
    process.kill().await.unwrap();
}

/// A TCP relay to the database that can be interrupted.
#[derive(Clone)]
struct Relay {
    port: u16,
    is_interrupted: Arc<AtomicBool>,
    open_connections: Arc<AtomicUsize>,
}

impl Relay {
    async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = Self { port, is_interrupted: Arc::default(), open_connections: Arc::default() };
        let accepting = relay.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepting.open_connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(accepting.clone().forward(client, target.clone()));
            }
        });
        relay
    }

    async fn forward(self, mut client: TcpStream, target: String) {
        let interrupted = async {
            while !self.is_interrupted.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let copying = async {
            let Ok(mut server) = TcpStream::connect(target).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        };
        tokio::select! {
            biased;
            () = interrupted => {}
            () = copying => {}
        }
        self.open_connections.fetch_sub(1, Ordering::SeqCst);
    }

    /// Closes every connection, and each new one at once.
    async fn interrupt(&self) {
        self.is_interrupted.store(true, Ordering::SeqCst);
        wait_until("every connection is closed", || async {
            self.open_connections.load(Ordering::SeqCst) == 0
        })
        .await;
    }

    fn resume(&self) {
        self.is_interrupted.store(false, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by cargo xtask test"]
async fn without_its_database_a_service_refuses_writes_and_serves_stale_responses() {
    let server = std::env::var("PHASE6_TEST_POSTGRES").expect("PHASE6_TEST_POSTGRES names a server");
    let target = server.rsplit('@').next().unwrap().to_owned();
    let relay = Relay::start(target).await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    let cached = json!({"cache": {"ttl": "100ms", "staleIfError": "1h"}});
    std::fs::write(&policy, policy_document(1, 1, &cached)).unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", relay.port);
    let budget = Budget::start(
        &folder.path().join("data"),
        &["--database", &url, "--policy", policy.to_str().unwrap()],
    )
    .await;
    let name = format!("{:?}", std::time::SystemTime::now());
    assert_eq!(budget.record(&name).await.0, 200);
    assert_eq!(budget.get("/api/v1/budget/metrics/c").await.0, 200);

    relay.interrupt().await;
    wait_until("writes are refused", || async {
        let (status, body) = budget.record("lost").await;
        assert!(status != 200, "a write was acknowledged that cannot have reached the database");
        status == 503 && body["error"]["code"] == "database_unavailable"
    })
    .await;
    let (status, stale) = budget.get("/api/v1/budget/metrics/c").await;
    assert_eq!(status, 200, "{stale}");
    assert_eq!(budget.get("/api/v1/budget/history").await.0, 503, "there is no stale response of this path");
    assert_eq!(budget.get("/readyz").await.0, 200, "readiness does not depend on the database");

    relay.resume();
    wait_until("writes succeed again", || async { budget.record(&name).await.0 == 200 }).await;
    assert_eq!(budget.record(&name).await.1["recorded"], false, "the acknowledged record is lost");
}
