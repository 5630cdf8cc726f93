//! A Redis that wants TLS and knows its users, as those that are rented do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::Path;

use phase6_tests::{Redis, Served, root, until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

/// The rights that the documents say a user needs.
fn rights() -> String {
    let text = std::fs::read_to_string(root().join("docs/operating.md")).unwrap();
    let line = text.lines().find(|line| line.starts_with("ACL SETUSER phase6 on >PASSWORD ")).unwrap();
    line.trim_start_matches("ACL SETUSER phase6 on >PASSWORD ").to_owned()
}

/// An authority, and a certificate of it for loopback, in files of a folder.
fn certificates(folder: &Path) {
    let mut wanted = CertificateParams::new([]).unwrap();
    wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.join("ca.crt"), wanted.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Issuer::new(wanted, key);
    let key = KeyPair::generate().unwrap();
    let wanted = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("redis.crt"), wanted.signed_by(&key, &authority).unwrap().pem()).unwrap();
    std::fs::write(folder.join("redis.key"), key.serialize_pem()).unwrap();
}

fn secured(folder: &Path) -> Redis {
    certificates(folder);
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let rights = rights();
    let mut arguments = vec!["--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no"];
    let (certificate, key, authority) = (file("redis.crt"), file("redis.key"), file("ca.crt"));
    arguments.extend([
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
    ]);
    arguments.extend(["--user", "default", "off", "--user", "phase6", "on", ">secret"]);
    arguments.extend(rights.split(' '));
    Redis::start(&arguments)
}

async fn serve(folder: &Path, url: &str, authorities: &str) -> Served {
    let policy = folder.join("policy.json");
    let document = json!({
        "ownerUid": "u", "revision": 1, "generation": 1, "hash": "h1", "publishedAt": "", "replicas": 2,
        "policy": {"cache": {"ttl": "60s"}, "rateLimit": {
            "capacity": 6, "refillPerSecond": 0.001,
            "overrides": [{"match": {"path": "/api/v1/system/*"}, "capacity": 1_000, "refillPerSecond": 100}],
        }},
    });
    std::fs::write(&policy, document.to_string()).unwrap();
    let arguments = ["--policy", policy.to_str().unwrap(), "--redis", url];
    Served::with("budget", &arguments, &[("SSL_CERT_FILE", authorities)]).await
}

#[tokio::test]
async fn replicas_share_over_tls_as_a_user_with_no_more_rights_than_documented() {
    let folder = tempfile::tempdir().unwrap();
    let redis = secured(folder.path());
    let url = format!("rediss://phase6:secret@127.0.0.1:{}", redis.port);
    let authorities = folder.path().join("ca.crt");
    let authorities = authorities.to_str().unwrap();
    let replicas =
        [serve(folder.path(), &url, authorities).await, serve(folder.path(), &url, authorities).await];
    let seen = async |served: &Served| served.get("/api/v1/system/observability").await.unwrap().1;
    let mut admitted = 0;
    for served in &replicas {
        until("it hears of what others forget", || async {
            let metrics = served.http.get(format!("http://127.0.0.1:{}/metrics", served.port)).send().await;
            metrics.unwrap().text().await.unwrap().contains("phase6_cache_shared{service=\"budget\"} 1")
        })
        .await;
        for _ in 0..5 {
            let (status, _) = served.get("/api/v1/providers/policy").await.unwrap();
            admitted += u32::from(status == 200);
        }
    }
    assert_eq!(admitted, 6, "one bucket for both");
    // Nothing was refused on the way: not a command, not a key.
    for served in &replicas {
        until("answers are stored, and duties over", || async {
            let shown = seen(served).await;
            let level = &shown["cache"]["secondLevel"];
            let limiter = &shown["rateLimiter"]["shared"];
            assert_eq!((&level["errors"], &limiter["failedCalls"]), (&json!(0), &json!(0)), "{shown}");
            level["writes"].as_u64() > Some(0) || level["hits"].as_u64() > Some(0)
        })
        .await;
    }
    for served in replicas {
        assert_eq!(served.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_nobody_knows_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let redis = secured(folder.path());
    let url = format!("rediss://phase6:secret@127.0.0.1:{}", redis.port);
    let served = serve(folder.path(), &url, "/etc/ssl/certs/ca-certificates.crt").await;
    let mut admitted = 0;
    for _ in 0..10 {
        admitted += u32::from(served.get("/api/v1/budget").await.unwrap().0 == 200);
    }
    assert_eq!(admitted, 1, "half of a share of three, rounded up, is used: it goes by its share");
    assert_eq!(served.stop(), Some(0));
}
