//! Records on bad days: killed in the middle of writes, a full disk, a database that goes away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

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
use phase6_tests::{Program, client, free_ports, phase6, program, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

struct Budget {
    program: Program,
    port: u16,
    http: reqwest::Client,
}

impl Budget {
    async fn start(data: &Path, more: &[&str]) -> Self {
        let port = free_ports();
        let text = port.to_string();
        let mut arguments = vec!["serve", "budget", "--port", &text, "--data", data.to_str().unwrap()];
        arguments.extend(more);
        let budget = Self { program: Program::start(&arguments, &[]), port, http: client() };
        until("it serves", || async { budget.get("/readyz").await.0 == 200 }).await;
        budget
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        read(self.http.get(format!("http://127.0.0.1:{}{path}", self.port))).await
    }

    async fn book(&self, workflow: &str) -> (u16, Value) {
        let body = json!({"cohortId": "c", "workflowId": workflow, "provider": "openai", "cost": 0.01});
        read(
            self.http
                .post(format!("http://127.0.0.1:{}/api/v1/budget/record-workflow", self.port))
                .json(&body),
        )
        .await
    }
}

async fn read(request: reqwest::RequestBuilder) -> (u16, Value) {
    match request.send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            (status, answer.json().await.unwrap_or(Value::Null))
        }
        Err(_) => (0, Value::Null),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_fifty_times_in_the_middle_of_writes_it_loses_nothing_it_acknowledged() {
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
                        match budget.book(&name).await.0 {
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
        until("something was written", || async { acknowledged.lock().len() > before }).await;
        // At another moment of the writing in each round.
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
    let kept = metrics["metrics"]["workflowsExecuted"].as_u64().unwrap();
    // Some were written and not acknowledged: that is no loss.
    assert!(kept >= acknowledged.len() as u64, "{kept} of {}", acknowledged.len());
    for name in &acknowledged {
        let (status, answer) = budget.book(name).await;
        assert_eq!((status, &answer["recorded"]), (200, &json!(false)), "{name} is lost");
    }
}

#[test]
fn a_data_folder_that_cannot_be_written_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let inside = file.join("data");
    // One lies below a file, the other on a file system that takes no files.
    for data in [inside.to_str().unwrap(), "/proc/phase6"] {
        let (code, _, errors) = phase6(&["up", "--data", data]);
        assert_eq!(code, 1);
        assert!(
            errors.contains(&format!("cannot write to the data folder {data}"))
                && errors.contains("--data DIR"),
            "{errors}"
        );
    }
}

#[tokio::test]
async fn a_full_disk_is_503_for_writes_and_reads_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let port = free_ports();
    // A limit on the size of files, with its signal ignored, fails writes as a full disk does.
    let mut process = tokio::process::Command::new("sh")
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 400; exec \"$0\" \"$@\"")
        .arg(program())
        .args(["serve", "budget", "--port", &port.to_string(), "--data", data.to_str().unwrap()])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let http = client();
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    until("it serves", || async { read(http.get(url("/readyz"))).await.0 == 200 }).await;
    let mut refused = None;
    for number in 0..20_000 {
        let body = json!({"cohortId": "c".repeat(100), "workflowId": format!("{number}-{}", "w".repeat(100)), "provider": "openai", "cost": 1});
        let answer = http.post(url("/api/v1/budget/record-workflow")).json(&body).send().await.unwrap();
        if answer.status() != 200 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("the disk is full at last");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["code"], "database_unavailable");
    assert_eq!(read(http.get(url("/api/v1/budget"))).await.0, 200, "reads go on");
    assert_eq!(read(http.get(url("/readyz"))).await.0, 200);
    process.kill().await.unwrap();
}

/// A way to the database that can be cut.
#[derive(Clone)]
struct Cable {
    port: u16,
    cut: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
}

impl Cable {
    async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cable = Self { port, cut: Arc::default(), open: Arc::default() };
        let Self { cut, open, .. } = cable.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (target, cut, open) = (target.clone(), Arc::clone(&cut), Arc::clone(&open));
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let until_cut = async {
                        while !cut.load(Ordering::SeqCst) {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    };
                    let passing = async {
                        let Ok(mut server) = TcpStream::connect(target).await else { return };
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    };
                    tokio::select! {
                        biased;
                        () = until_cut => {}
                        () = passing => {}
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        cable
    }

    /// Cuts it: when this returns, nothing passes any more.
    async fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        until("every connection is cut", || async { self.open.load(Ordering::SeqCst) == 0 }).await;
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: run by cargo xtask test"]
async fn a_database_that_goes_away_is_503_for_writes_and_stale_answers_for_reads() {
    let server = std::env::var("PHASE6_TEST_POSTGRES").expect("PHASE6_TEST_POSTGRES names a server");
    let target = server.rsplit('@').next().unwrap().to_owned();
    let cable = Cable::to(target).await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    let document = json!({"ownerUid": "u", "revision": 1, "generation": 1, "hash": "", "publishedAt": "",
        "policy": {"cache": {"ttl": "100ms", "staleIfError": "1h"}}});
    std::fs::write(&policy, document.to_string()).unwrap();
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", cable.port);
    let budget = Budget::start(
        &folder.path().join("data"),
        &["--database", &url, "--policy", policy.to_str().unwrap()],
    )
    .await;
    let name = format!("{:?}", std::time::SystemTime::now());
    assert_eq!(budget.book(&name).await.0, 200);
    assert_eq!(budget.get("/api/v1/budget/metrics/c").await.0, 200);

    cable.cut().await;
    until("writes are refused", || async {
        let (status, answer) = budget.book("lost").await;
        assert!(status != 200, "acknowledged although nothing can be written");
        status == 503 && answer["error"]["code"] == "database_unavailable"
    })
    .await;
    let (status, stale) = budget.get("/api/v1/budget/metrics/c").await;
    assert_eq!(status, 200, "{stale}");
    assert_eq!(budget.get("/api/v1/budget/history").await.0, 503, "what was never read cannot be shown");
    assert_eq!(budget.get("/readyz").await.0, 200, "and readiness is no question of the database");

    cable.mend();
    until("writes are possible again", || async { budget.book(&name).await.0 == 200 }).await;
    assert_eq!(budget.book(&name).await.1["recorded"], false, "the acknowledged one is there");
}
