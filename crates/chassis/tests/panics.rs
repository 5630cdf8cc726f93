//! A handler that panics fails its own request, and nothing else.

use phase6_chassis::{Definition, Domain, Needs, catalog::Service, testing::TestService};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

#[utoipa::path(get, path = "/bug", responses((status = 200)))]
async fn bug() -> &'static str {
    panic!("a deliberate bug")
}

#[utoipa::path(get, path = "/fine", responses((status = 200)))]
async fn fine() -> &'static str {
    "fine"
}

const BUGGY: Definition = Definition {
    service: Service::named("training"),
    domain: Domain::Built,
    needs: Needs::NOTHING,
    build: |_| Box::pin(async { Ok(OpenApiRouter::new().routes(routes!(bug)).routes(routes!(fine))) }),
};

/// With a cache the handler runs as the leader of a single flight, which must end too.
#[tokio::test]
async fn a_panicking_handler_responds_with_500_and_is_counted() {
    for policy in [json!({}), json!({"cache": {"ttl": "5s"}})] {
        let service = TestService::builder(&BUGGY).policy(policy).start().await;
        for _ in 0..3 {
            let response = service.get("/bug").await;
            assert_eq!(response.status, 500);
            let body: Value = response.json();
            assert_eq!((&body["ok"], &body["error"]["code"]), (&json!(false), &json!("internal")), "{body}");
            assert!(!response.text().contains("a deliberate bug"), "the cause is for the log: {body}");
            assert_eq!(service.get("/fine").await.text(), "fine");
        }
        let metrics = service.get("/metrics").await;
        let panics = metrics.text().lines().find(|line| line.starts_with("phase6_panics_total"));
        assert!(panics.is_some_and(|line| line.ends_with(" 3")), "{panics:?}");
        service.shutdown().await;
    }
}
