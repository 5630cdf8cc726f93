//! Rejected requests.

use http::Method;
use phase6_chassis::testing::TestRequest;
use serde_json::{Value, json};

use crate::harness::Harness;

/// A request and its expected refusal.
struct Case {
    request: TestRequest,
    status: u16,
    code: &'static str,
    message_part: &'static str,
}

fn case(request: TestRequest, status: u16, code: &'static str, message_part: &'static str) -> Case {
    Case { request, status, code, message_part }
}

#[tokio::test]
async fn bad_input_is_a_4xx_that_names_the_field() {
    let harness = Harness::start(&[], &[]).await;
    let get = |path: &str| harness.service.request(Method::GET, path);
    let burst = || harness.post_request("/api/v1/providers/burst");
    let json_body = |body: &'static [u8]| burst().header("content-type", "application/json").body(body);
    let cases = [
        case(json_body(b"{"), 400, "invalid_json", "not valid JSON"),
        case(json_body(b"{\"prompt\":\"\xff\"}"), 400, "invalid_json", "not valid JSON"),
        case(json_body(b"[]"), 400, "invalid_body", "a JSON object"),
        case(json_body(b"{}"), 400, "invalid_body", "`prompt`"),
        case(json_body(b"{\"prompt\":7}"), 400, "invalid_body", "`prompt`"),
        case(json_body(b"{\"prompt\":\"x\",\"temperature\":1}"), 400, "invalid_body", "`temperature`"),
        case(json_body(b"{\"prompt\":\" \"}"), 400, "invalid_body", "`prompt`"),
        case(json_body(b"{\"prompt\":\"x\",\"maxTokens\":0}"), 400, "invalid_body", "`maxTokens`"),
        case(json_body(b"{\"prompt\":\"x\",\"maxTokens\":-1}"), 400, "invalid_body", "`maxTokens`"),
        case(json_body(b"{\"prompt\":\"x\",\"ttlSeconds\":90000}"), 400, "invalid_body", "`ttlSeconds`"),
        case(
            json_body(b"{\"prompt\":\"x\",\"ttlSeconds\":60,\"stream\":true}"),
            400,
            "invalid_body",
            "together with `stream`",
        ),
        case(json_body(b"{\"prompt\":\"x\",\"provider\":\"skynet\"}"), 400, "invalid_body", "`provider`"),
        case(burst().json(&json!({"prompt": "x".repeat(200_001)})), 400, "invalid_body", "`prompt`"),
        case(burst().body("prompt=x"), 415, "unsupported_media_type", "application/json"),
        case(
            burst().header("content-type", "application/json").body(vec![b' '; 3 * 1024 * 1024]),
            413,
            "body_too_large",
            "2097152",
        ),
        case(
            harness.service.request(Method::PUT, "/api/v1/providers/burst"),
            405,
            "method_not_allowed",
            "PUT",
        ),
        case(get("/api/v1/nothing"), 404, "not_found", "/api/v1/nothing"),
        case(get("/api/v1/budget/metrics/%00"), 400, "invalid_body", "`cohortId`"),
        case(get("/api/v1/budget/metrics/%FF"), 400, "invalid_path", ""),
        case(get(&format!("/api/v1/budget?{}", "q".repeat(9_000))), 414, "uri_too_long", "8192"),
        case(get("/api/v1/budget").header("x-long", "y".repeat(40_000)), 431, "headers_too_large", "32768"),
    ];
    for (number, case) in cases.into_iter().enumerate() {
        let response = case.request.send().await;
        let status = response.status.as_u16();
        let body: Value =
            serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("case {number}: {error}"));
        assert_eq!(
            (status, body["error"]["code"].as_str()),
            (case.status, Some(case.code)),
            "case {number}: {body}"
        );
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(case.message_part), "case {number}: {body}");
        assert_eq!(body["ok"], false);
        assert_eq!(body["traceId"].as_str().map(str::len), Some(32), "case {number}: {body}");
    }
    harness.stop().await;
}
