//! A Redis that requires TLS and a user with limited rights, as hosted ones do.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::path::Path;

use phase6_tests::{Redis, ServiceProcess, policy_document, root, wait_until};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;

/// Returns the rights that docs/operating.md gives the user `phase6`.
fn documented_rights() -> String {
    let text = std::fs::read_to_string(root().join("docs/operating.md")).unwrap();
    let line = text.lines().find(|line| line.starts_with("ACL SETUSER phase6 on >PASSWORD ")).unwrap();
    line.trim_start_matches("ACL SETUSER phase6 on >PASSWORD ").to_owned()
}

/// Writes the certificate of an authority, and a certificate that it signed for loopback, into a folder.
fn write_certificates(folder: &Path) {
    let mut parameters = CertificateParams::new([]).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.join("ca.crt"), parameters.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Issuer::new(parameters, key);
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &authority).unwrap();
    std::fs::write(folder.join("redis.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.join("redis.key"), key.serialize_pem()).unwrap();
}

fn start_redis(folder: &Path) -> Redis {
    write_certificates(folder);
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let rights = documented_rights();
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

async fn start_service(folder: &Path, url: &str, authorities: &str) -> ServiceProcess {
    let file = folder.join("policy.json");
    let policy = json!({"cache": {"ttl": "60s"}, "rateLimit": {
        "capacity": 6, "refillPerSecond": 0.001,
        "overrides": [{"match": {"path": "/api/v1/system/*"}, "capacity": 1_000, "refillPerSecond": 100}],
    }});
    std::fs::write(&file, policy_document(1, 2, &policy)).unwrap();
    let arguments = ["--policy", file.to_str().unwrap(), "--redis", url];
    ServiceProcess::with_environment("budget", &arguments, &[("SSL_CERT_FILE", authorities)]).await
}

#[tokio::test]
async fn replicas_share_over_tls_as_a_user_with_the_documented_rights() {
    let folder = tempfile::tempdir().unwrap();
    let redis = start_redis(folder.path());
    let url = format!("rediss://phase6:secret@127.0.0.1:{}", redis.port);
    let authorities = folder.path().join("ca.crt");
    let authorities = authorities.to_str().unwrap();
    let replicas = [
        start_service(folder.path(), &url, authorities).await,
        start_service(folder.path(), &url, authorities).await,
    ];
    let mut admitted = 0;
    for service in &replicas {
        wait_until("the replica reads the invalidation log", || async {
            service.metrics().await.contains("phase6_cache_shared{service=\"budget\"} 1")
        })
        .await;
        for _ in 0..5 {
            let (status, _) = service.get("/api/v1/providers/policy").await.unwrap();
            admitted += u32::from(status == 200);
        }
    }
    assert_eq!(admitted, 6, "both replicas draw on one bucket");
    // Redis refused no command and no key on the way.
    for service in &replicas {
        wait_until("responses are stored", || async {
            let (_, report) = service.get("/api/v1/system/observability").await.unwrap();
            let level = &report["cache"]["secondLevel"];
            let limiter = &report["rateLimiter"]["shared"];
            assert_eq!((&level["errors"], &limiter["failedCalls"]), (&json!(0), &json!(0)), "{report}");
            level["writes"].as_u64() > Some(0) || level["hits"].as_u64() > Some(0)
        })
        .await;
    }
    for service in replicas {
        assert_eq!(service.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let redis = start_redis(folder.path());
    let url = format!("rediss://phase6:secret@127.0.0.1:{}", redis.port);
    let service = start_service(folder.path(), &url, "/etc/ssl/certs/ca-certificates.crt").await;
    let mut admitted = 0;
    for _ in 0..10 {
        admitted += u32::from(service.get("/api/v1/budget").await.unwrap().0 == 200);
    }
    assert_eq!(admitted, 1, "without Redis half of the replica's share of three, rounded up, counts as used");
    assert_eq!(service.stop(), Some(0));
}
