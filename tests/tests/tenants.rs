//! Two tenants on two replicas of the whole fleet, over one PostgreSQL and one Redis: nothing of one is visible to
//! the other.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{collections::BTreeSet, time::Duration};

use phase6_catalog::SERVICES;
use phase6_store::testing::{Kind, TestDatabase};
use phase6_tests::{Fleet, wait_until};
use reqwest::{Method, header::CONTENT_TYPE};
use serde_json::{Map, Value, json};

const TOKEN: &str = "internal-token-of-two-fleets";
/// Name that both tenants use.
const SHARED: &str = "shared-name";
/// Names and amounts of the first tenant only.
const SECRETS: [&str; 4] = ["red-only-name", "red-only-workflow", "red-only-cohort", "123.456789"];
/// Longest wait for the first part of a response.
const FIRST_PART: Duration = Duration::from_secs(5);

/// A fleet whose services cache, and limit each client.
fn manifests() -> String {
    let document = |name: &str| {
        format!(
            "apiVersion: phase6.dev/v1alpha1\nkind: Phase6Service\nmetadata:\n  name: {name}\nspec:\n  service: {name}\n  \
             cache: {{ttl: 60s}}\n  tracing: {{samplingRate: 1.0}}\n  rateLimit: {{capacity: 5000, refillPerSecond: 0.001, key: Client}}\n"
        )
    };
    SERVICES.iter().map(|service| document(service.name)).collect::<Vec<_>>().join("---\n")
}

/// Two replicas of the fleet, and an API key of each tenant.
struct Replicas {
    fleets: [Fleet; 2],
    _database: TestDatabase,
    red: String,
    blue: String,
}

/// A response to a tenant.
struct Seen {
    status: u16,
    /// `RateLimit` header.
    limit: String,
    /// Headers and the beginning of the body, as one text.
    text: String,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_str(self.text.split_once("\n\n").unwrap().1).unwrap()
    }
}

impl Replicas {
    async fn start() -> Self {
        let database = TestDatabase::create(Kind::Postgres).await;
        let url = database.connect_string();
        let redis = std::env::var("PHASE6_TEST_REDIS").expect("PHASE6_TEST_REDIS names a server");
        let environment = [
            ("PHASE6_DATABASE_URL", url.as_str()),
            ("PHASE6_REDIS_URL", redis.as_str()),
            ("PHASE6_INTERNAL_TOKEN", TOKEN),
        ];
        let start = || Fleet::with(&manifests(), &[], &environment);
        let fleets = [start(), start()];
        let mut replicas = Self { fleets, _database: database, red: String::new(), blue: String::new() };
        let admin = replicas.create_key("", json!({"role": "admin", "name": "operator"})).await;
        let key = |tenant, name| json!({"tenant": tenant, "role": "admin", "name": name});
        replicas.red = replicas.create_key(&admin, key("red", "red-only-name")).await;
        replicas.blue = replicas.create_key(&admin, key("blue", "bob")).await;
        for service in SERVICES {
            for fleet in &replicas.fleets {
                wait_until("every service requires the keys", || async {
                    let url = fleet.url(service.name, "/api/v1/status");
                    let request = || fleet.http.get(&url);
                    request().send().await.unwrap().status() == 401
                        && request().header("x-api-key", &replicas.blue).send().await.unwrap().status() == 200
                })
                .await;
            }
        }
        replicas
    }

    async fn create_key(&self, admin: &str, body: Value) -> String {
        let url = self.fleets[0].url("web", "/api/v1/keys");
        let request = self.fleets[0].http.post(url).header("x-api-key", admin).json(&body);
        let response: Value = request.send().await.unwrap().json().await.unwrap();
        response["key"].as_str().unwrap_or_else(|| panic!("{response}")).to_owned()
    }

    /// Calls a service of a replica. Reads the first part of the body only, because some never end.
    async fn call(
        &self,
        replica: usize,
        service: &str,
        key: &str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Seen {
        let fleet = &self.fleets[replica];
        let mut request =
            fleet.http.request(method.clone(), fleet.url(service, path)).header("x-api-key", key);
        if let Some(body) = body {
            request = request.json(body).header("if-match", "*").header("idempotency-key", "\"shared-key\"");
        }
        let mut response = request.send().await.unwrap();
        let header = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let (status, limit, is_stream) = (
            response.status().as_u16(),
            header("ratelimit"),
            header(CONTENT_TYPE.as_str()).contains("event-stream"),
        );
        let mut text = format!("{:?}\n\n", response.headers());
        let read = async {
            while let Some(part) = response.chunk().await.unwrap() {
                text.push_str(&String::from_utf8_lossy(&part));
                if is_stream {
                    break;
                }
            }
        };
        tokio::time::timeout(FIRST_PART, read).await.unwrap();
        Seen { status, limit, text }
    }

    async fn get(&self, replica: usize, service: &str, key: &str, path: &str) -> Seen {
        self.call(replica, service, key, &Method::GET, path, None).await
    }

    fn stop(self) {
        for fleet in self.fleets {
            assert_eq!(fleet.stop(), Some(0));
        }
    }
}

/// An operation of a description, with values for its parameters.
struct Operation {
    method: Method,
    path: String,
    body: Option<Value>,
}

/// Returns the operations of a description that are not about the whole fleet.
fn operations(description: &Value) -> Vec<Operation> {
    let mut all = vec![];
    for (template, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            let mut path = template.clone();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "path" {
                    path = path.replace(&format!("{{{}}}", parameter["name"].as_str().unwrap()), SHARED);
                }
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let body = (!schema.is_null()).then(|| example(schema, description));
            all.push(Operation { method, path, body });
        }
    }
    all
}

/// Returns a value that a schema accepts, with the names that both tenants use.
fn example(schema: &Value, description: &Value) -> Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return example(description.pointer(reference.trim_start_matches('#')).unwrap(), description);
    }
    if let Some(values) = schema["enum"].as_array() {
        return values[0].clone();
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        if let Some(choices) = schema[choice].as_array() {
            let chosen = choices.iter().find(|choice| choice["type"] != "null").unwrap();
            return example(chosen, description);
        }
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or("object");
    match kind {
        "string" => json!(SHARED),
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        "boolean" => json!(false),
        "array" => json!([example(&schema["items"], description)]),
        _ => {
            let required: BTreeSet<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            let values: Map<String, Value> = properties
                .iter()
                .filter(|(name, _)| required.contains(name.as_str()))
                .map(|(name, property)| (name.clone(), example(property, description)))
                .collect();
            Value::Object(values)
        }
    }
}

/// Responses that the first tenant gets for what it has recorded.
async fn view(replicas: &Replicas, replica: usize) -> Vec<Value> {
    let mut all = vec![];
    for path in [
        format!("/api/v1/budget/metrics/{SHARED}"),
        format!("/api/v1/budget/policy/{SHARED}"),
        "/api/v1/budget/export".to_owned(),
        "/api/v1/budget/history".to_owned(),
        "/api/v1/keys".to_owned(),
    ] {
        let seen = replicas.get(replica, "budget", &replicas.red, &path).await;
        assert_eq!(seen.status, 200, "{path}: {}", seen.text);
        all.push(seen.json());
    }
    all
}

fn assert_nothing_of_the_other(seen: &Seen, what: &str) {
    for secret in SECRETS {
        assert!(!seen.text.contains(secret), "{what} shows {secret}: {}", seen.text);
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL and Redis: run by cargo xtask test"]
async fn nothing_of_a_tenant_is_visible_to_another_one() {
    let replicas = Replicas::start().await;
    let (red, blue) = (replicas.red.clone(), replicas.blue.clone());
    let workflow = json!({
        "cohortId": SHARED, "workflowId": "red-only-workflow", "provider": "openai", "cost": 123.456_789,
    });
    let record = "/api/v1/budget/record-workflow";
    let recorded = replicas.call(0, "web", &red, &Method::POST, record, Some(&workflow)).await;
    assert_eq!(recorded.status, 200, "{}", recorded.text);
    // Its path is in the trace of every service that it passes.
    for replica in [0, 1] {
        replicas.get(replica, "web", &red, "/api/v1/budget/metrics/red-only-cohort").await;
    }
    let before = view(&replicas, 1).await;
    let own = json!(before).to_string();
    assert!(own.contains("red-only-name") && own.contains("123.456789"), "the tenant sees its own: {own}");

    // The key of the first tenant, which has used it for another request.
    let own = json!({"cohortId": SHARED, "workflowId": "blue", "provider": "openai", "cost": 1.0});
    let recorded = replicas.call(0, "web", &blue, &Method::POST, record, Some(&own)).await;
    assert!(recorded.status == 200 && recorded.json()["recorded"] == true, "{}", recorded.text);
    let mut called = 0;
    for service in SERVICES {
        let description = replicas.get(0, service.name, &blue, "/openapi.json").await.json();
        for Operation { method, path, body } in operations(&description) {
            for replica in [0, 1] {
                // The response to the first tenant may now be cached.
                if method == Method::GET {
                    replicas.get(replica, service.name, &red, &path).await;
                }
                let seen = replicas.call(replica, service.name, &blue, &method, &path, body.as_ref()).await;
                assert_nothing_of_the_other(&seen, &format!("{}: {method} {path}", service.name));
                assert_ne!(seen.status, 401, "{}: {method} {path}", service.name);
                assert_ne!(seen.status, 500, "{}: {method} {path}: {}", service.name, seen.text);
                if path.starts_with("/api/v1/budget") || path.starts_with("/api/v1/providers") {
                    let seen = replicas.call(replica, "web", &blue, &method, &path, body.as_ref()).await;
                    assert_nothing_of_the_other(&seen, &format!("web: {method} {path}"));
                }
                called += 1;
            }
        }
    }
    assert!(called > 150, "{called} operations were called");
    let admin = json!({"tenant": "red", "role": "admin", "name": "blue"});
    let refused = replicas.call(0, "web", &blue, &Method::POST, "/api/v1/keys", Some(&admin)).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    let ids = |key: &Value| -> Vec<String> {
        let items = key["items"].as_array().unwrap().iter();
        items.map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    for id in ids(&before[4]) {
        let path = format!("/api/v1/keys/{id}");
        assert_eq!(replicas.call(0, "web", &blue, &Method::DELETE, &path, None).await.status, 404);
    }
    assert_eq!(view(&replicas, 0).await, before, "the other tenant has changed nothing");
    assert_eq!(view(&replicas, 1).await, before);
    replicas.stop();
}

#[tokio::test]
#[ignore = "needs PostgreSQL and Redis: run by cargo xtask test"]
async fn clients_of_one_name_in_two_tenants_have_separate_limits_on_all_replicas() {
    let replicas = Replicas::start().await;
    let admin_of = |tenant: &'static str, key: String| {
        let replicas = &replicas;
        async move {
            let body = json!({"tenant": tenant, "role": "reader", "name": SHARED});
            replicas.create_key(&key, body).await
        }
    };
    let red = admin_of("red", replicas.red.clone()).await;
    let blue = admin_of("blue", replicas.blue.clone()).await;
    for key in [&red, &blue] {
        wait_until("the key is accepted", || async {
            replicas.get(0, "coach", key, "/api/v1/status").await.status == 200
                && replicas.get(1, "coach", key, "/api/v1/status").await.status == 200
        })
        .await;
    }
    let remaining = |seen: &Seen| -> u64 {
        let value = seen.limit.split("r=").nth(1).unwrap_or_else(|| panic!("{}", seen.text));
        value.split(';').next().unwrap().parse().unwrap()
    };
    let first = remaining(&replicas.get(0, "coach", &blue, "/api/v1/status").await);
    for request in 0..200 {
        replicas.get(request % 2, "coach", &red, "/api/v1/status").await;
    }
    let last = remaining(&replicas.get(0, "coach", &blue, "/api/v1/status").await);
    assert!(first - last < 100, "requests of the other tenant took tokens: {first}, then {last}");
    let red_left = remaining(&replicas.get(0, "coach", &red, "/api/v1/status").await);
    assert!(red_left < last, "its own requests took tokens: {red_left}");
    replicas.stop();
}
