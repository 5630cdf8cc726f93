//! Every service: its settings, its policy, its clock and its servers, from the outside.

use std::time::Duration;

use http::Method;
use phase6_chassis::{
    Clock, Definition, Domain, Environment, Needs, Principal, Reply, Role, Setting, SettingKind, StartError,
    catalog::Service,
    store::Migration,
    testing::{DatabaseKind, TestService},
};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

const GREETING: Setting =
    Setting { name: "GREETING", kind: SettingKind::Text { default: Some("hello") }, about: "Greeting" };
const COUNT: Setting = Setting {
    name: "COUNT",
    kind: SettingKind::Integer { min: 1, max: 3, default: 1 },
    about: "Number of greetings.",
};
const ENABLED: Setting =
    Setting { name: "ENABLED", kind: SettingKind::Boolean { default: true }, about: "Switch" };

const GREETER: Definition = Definition {
    service: Service::named("training"),
    domain: Domain::Built,
    needs: Needs { settings: &[GREETING, COUNT, ENABLED], ..Needs::NOTHING },
    build: |kit| {
        Box::pin(async move {
            let greeting = kit.settings.text(&GREETING).unwrap_or_default();
            let text = vec![greeting; kit.settings.integer(&COUNT) as usize].join(" ");
            Ok(OpenApiRouter::new().routes(routes!(greet)).with_state(text))
        })
    },
};

#[utoipa::path(get, path = "/greet", responses((status = 200)))]
async fn greet(axum::extract::State(text): axum::extract::State<String>) -> Reply<Value> {
    Reply::new(json!({"text": text}))
}

#[tokio::test]
async fn a_service_reads_its_settings() {
    let service = TestService::builder(&GREETER).settings([("COUNT", "2")]).start().await;
    let body: Value = service.get_json("/greet").await;
    assert_eq!(body["text"], "hello hello");
    service.shutdown().await;
}

#[test]
fn invalid_settings_are_reported_together_with_the_service() {
    let environment: Environment = [("COUNT", "4"), ("ENABLED", "on")].into_iter().collect();
    let error = GREETER.read_settings(&environment).err().map(|error| error.to_string());
    let expected = "training: 2 settings are invalid:\n  \
        COUNT is \"4\"; accepted: a whole number from 1 to 3\n  \
        ENABLED is \"on\"; accepted: true or false";
    assert_eq!(error.as_deref(), Some(expected));
}

#[tokio::test]
async fn a_service_does_not_start_with_an_undeclared_peer() {
    const LONELY: Definition = Definition {
        build: |kit| Box::pin(async move { kit.need_peer("budget").map(|_| OpenApiRouter::new()) }),
        ..GREETER
    };
    let host = TestService::start(&GREETER).await;
    let listener = phase6_chassis::listen(([127, 0, 0, 1], 0).into()).expect("a free port");
    let result = phase6_chassis::start(&LONELY, listener, host.host(), host.host().enforcer()).await;
    assert!(matches!(result, Err(StartError::Undeclared("budget"))));
    host.shutdown().await;
}

#[tokio::test]
async fn policies_and_times_can_be_set() {
    let clock = Clock::manual("2026-01-01T00:00:00Z".parse().expect("a time"));
    let service = TestService::builder(&GREETER).clock(clock.clone()).start().await;
    clock.advance(Duration::from_hours(1));
    service.apply_policy(json!({"rateLimit": {"capacity": 1, "refillPerSecond": 0.001}}));
    clock.advance(Duration::from_secs(2));
    let state: Value = service.get_json("/policyz").await;
    assert_eq!((&state["revision"], &state["ageMs"]), (&json!(1), &json!(2_000)), "{state}");
    assert_eq!(state["appliedAt"], "2026-01-01T01:00:00Z");
    assert_eq!(service.get("/health").await.json::<Value>()["time"], "2026-01-01T01:00:02Z");
    assert_eq!(service.get("/greet").await.status, 200);
    let refused = service.get("/greet").await;
    assert_eq!(
        (refused.status.as_u16(), refused.json::<Value>()["error"]["code"].as_str()),
        (429, Some("rate_limited"))
    );
    service.shutdown().await;
}

#[tokio::test]
async fn a_test_request_carries_headers_json_and_a_principal() {
    let service = TestService::builder(&GREETER).api_key("red", "ada", Role::Reader, "red-key").start().await;
    let purge = || service.request(Method::POST, "/api/v1/cache/invalidate").json(&json!({"all": true}));
    assert_eq!(purge().send().await.status, 401);
    assert_eq!(purge().header("x-api-key", "red-key").send().await.status, 403, "only an admin may do this");
    let admin = Principal { role: Role::Admin, ..Principal::service("web") };
    let purged = purge().on_behalf_of(&admin).send().await;
    assert_eq!((purged.status.as_u16(), &purged.json::<Value>()["purged"]), (200, &json!(0)));
    let mut greeting =
        service.request(Method::GET, "/greet").on_behalf_of(&Principal::service("meta")).open().await;
    assert_eq!(
        (greeting.status.as_u16(), greeting.headers["content-type"].as_bytes()),
        (200, &b"application/json"[..])
    );
    let first = greeting.next().await.expect("a part of the body");
    assert!(first.starts_with(b"{"), "{first:?}");
    service.shutdown().await;
}

const STORED: Definition = Definition {
    needs: Needs {
        store: Some(&[Migration {
            version: 1,
            name: "notes",
            sql: "CREATE TABLE notes (text TEXT NOT NULL)",
        }]),
        ..Needs::NOTHING
    },
    ..Definition::not_built(Service::named("training"))
};

async fn starts_with_a_database(kind: DatabaseKind) {
    let service = TestService::builder(&STORED).database(kind).start().await;
    assert_eq!(service.get("/readyz").await.text(), "ok\n");
    let status: Value = service.get_json("/api/v1/status").await;
    assert!(status["components"].to_string().contains("\"database\""), "{status}");
    service.store().await.close().await;
    service.shutdown().await;
}

#[tokio::test]
async fn starts_with_sqlite() {
    starts_with_a_database(DatabaseKind::Sqlite).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: run by cargo xtask test"]
async fn starts_with_postgres() {
    starts_with_a_database(DatabaseKind::Postgres).await;
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn replicas_share_a_limit_through_redis() {
    let redis = std::env::var("PHASE6_TEST_REDIS").expect("PHASE6_TEST_REDIS names a server");
    let limit = json!({"rateLimit": {"capacity": 3, "refillPerSecond": 0.001, "scope": "Shared"}});
    let start = || TestService::builder(&GREETER).redis(&redis).policy(limit.clone()).start();
    let (first, second) = (start().await, start().await);
    let snapshot: Value = first.get_json("/api/v1/system/observability").await;
    assert_eq!(snapshot["rateLimiter"]["scope"], "Shared", "{snapshot}");
    let mut admitted = 0;
    for service in [&first, &second, &first, &second, &first, &second] {
        admitted += u32::from(service.get("/greet").await.status == 200);
    }
    assert!(admitted <= 3, "{admitted} requests of one client were admitted");
    first.shutdown().await;
    second.shutdown().await;
}
