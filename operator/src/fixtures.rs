//! Scripted API server for tests.
//!
//! A [`Scenario`] lists the calls that the operator is expected to make, in order, each with its response.
//! [`ScriptedApi`] checks every call against it, keeps the objects that the calls store, and checks that a
//! write names the stored version if it names one. Watches are not part of it: tests fill the caches.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use axum::{
    Json, Router,
    body::to_bytes,
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use kube::{Client, api::ApiResource};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{build::Kind, resource::resource_api};

/// Namespace of every object.
pub const NAMESPACE: &str = "learning";

/// Response to a call.
pub enum Reply {
    /// The call succeeds, and the response is the stored object.
    Stored,
    /// The response is this object, which is not stored.
    Object(Value),
    /// The call fails with this status.
    Failure { code: u16, reason: &'static str, message: &'static str },
}

/// Returns the response for an object that does not exist.
pub fn not_found() -> Reply {
    Reply::Failure { code: 404, reason: "NotFound", message: "not found" }
}

/// Expected calls with their responses, in order.
#[derive(Default)]
pub struct Scenario {
    steps: VecDeque<(String, Reply)>,
}

impl Scenario {
    /// Creates a scenario without calls.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an expected call and its response.
    pub fn expect(mut self, call: String, reply: Reply) -> Self {
        self.steps.push_back((call, reply));
        self
    }

    /// Replaces the response to an expected call.
    pub fn replace_reply(&mut self, call: &str, reply: Reply) {
        let step = self.steps.iter_mut().find(|(expected, _)| expected == call);
        step.expect("the call is expected").1 = reply;
    }

    /// Adds the calls that create an object: looking up the name, which is free, and applying the object.
    pub fn expect_creation(self, kind: Kind, name: &str) -> Self {
        self.expect(look_up(kind, name), not_found()).expect(apply(kind, name), Reply::Stored)
    }
}

/// Returns the lookup of an object's metadata.
pub fn look_up(kind: Kind, name: &str) -> String {
    format!("GET {}", path(&kind.api(), name))
}

/// Returns the apply of an object by the field manager of its kind.
pub fn apply(kind: Kind, name: &str) -> String {
    apply_as(kind, name, kind.manager())
}

/// Returns the apply of an object by a field manager.
pub fn apply_as(kind: Kind, name: &str, manager: &str) -> String {
    format!("PATCH {} as {manager}", path(&kind.api(), name))
}

/// Returns the deletion of an object.
pub fn delete(kind: Kind, name: &str) -> String {
    format!("DELETE {}", path(&kind.api(), name))
}

/// Returns the update of a resource's status.
pub fn write_status(name: &str) -> String {
    format!("PATCH {}/status as phase6-operator/status", path(&resource_api(), name))
}

/// Returns the creation of an event.
pub fn create_event(reason: &str) -> String {
    format!("POST /apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events {reason}")
}

/// Returns the update of an event that repeats an earlier one.
pub fn repeat_event(reason: &str) -> String {
    format!("PATCH /apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events {reason}")
}

fn path(api: &ApiResource, name: &str) -> String {
    let prefix = if api.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", api.group) };
    format!("{prefix}/{}/namespaces/{NAMESPACE}/{}/{name}", api.version, api.plural)
}

/// Call that was made.
#[derive(Clone, Debug)]
pub struct Call {
    /// Method, path, and field manager or reason of an event.
    pub summary: String,
    /// Body, or null.
    pub body: Value,
}

#[derive(Default)]
struct ApiState {
    steps: VecDeque<(String, Reply)>,
    calls: Vec<Call>,
    mismatches: Vec<String>,
    /// Stored objects by path.
    objects: BTreeMap<String, Value>,
    last_version: u64,
}

/// API server that responds from a scenario. Clones share its state.
#[derive(Clone, Default)]
pub struct ScriptedApi {
    state: Arc<Mutex<ApiState>>,
}

impl ScriptedApi {
    /// Returns a client of this API server.
    pub fn client(&self) -> Client {
        Client::new(Router::new().fallback(respond).with_state(self.clone()), NAMESPACE)
    }

    /// Starts a scenario. The previous one must be finished.
    pub fn start(&self, scenario: Scenario) {
        self.state.lock().steps = scenario.steps;
    }

    /// Ends the scenario and returns the calls that were made.
    ///
    /// # Panics
    ///
    /// Panics if a call differed from the expected one, or if expected calls were not made.
    pub fn finish(&self) -> Vec<Call> {
        let mut state = self.state.lock();
        let mismatches = std::mem::take(&mut state.mismatches);
        assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
        let missing: Vec<_> = state.steps.drain(..).map(|(call, _)| call).collect();
        assert!(missing.is_empty(), "calls that were not made:\n{}", missing.join("\n"));
        std::mem::take(&mut state.calls)
    }

    /// Stores an object under the next version, as another client would, and returns it.
    pub fn store(&self, api: &ApiResource, object: Value) -> Value {
        let name = object["metadata"]["name"].as_str().expect("objects have names").to_owned();
        self.state.lock().store(path(api, &name), object)
    }

    /// Deletes an object, as another client would.
    pub fn remove(&self, kind: Kind, name: &str) {
        self.state.lock().objects.remove(&path(&kind.api(), name));
    }

    /// Returns a stored object.
    pub fn get(&self, api: &ApiResource, name: &str) -> Option<Value> {
        self.state.lock().objects.get(&path(api, name)).cloned()
    }

    /// Returns the stored objects of a kind.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        self.state.lock().objects.values().filter(|object| object["kind"] == kind).cloned().collect()
    }
}

impl ApiState {
    fn store(&mut self, path: String, mut object: Value) -> Value {
        self.last_version += 1;
        object["metadata"]["resourceVersion"] = self.last_version.to_string().into();
        self.objects.insert(path, object.clone());
        object
    }

    /// Returns the response to a call from the scenario.
    fn respond(&mut self, method: &Method, path: &str, call: Call) -> Response {
        let (expected, reply) = self.steps.pop_front().unwrap_or_else(|| {
            ("no call".into(), Reply::Failure { code: 500, reason: "", message: "unexpected call" })
        });
        if expected != call.summary {
            self.mismatches.push(format!("expected {expected}\n     got {}", call.summary));
        }
        let response = match reply {
            Reply::Failure { code, reason, message } => {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": code, "reason": reason, "message": message,
                });
                let code = StatusCode::from_u16(code).expect("a valid status code");
                (code, Json(status)).into_response()
            }
            Reply::Object(object) => Json(object).into_response(),
            Reply::Stored if *method == Method::DELETE => {
                self.objects.remove(path);
                Json(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})).into_response()
            }
            Reply::Stored => {
                let path = path.strip_suffix("/status").unwrap_or(path);
                let mut object = self.objects.get(path).cloned().unwrap_or_default();
                let precondition = &call.body["metadata"]["resourceVersion"];
                if !precondition.is_null() && *precondition != object["metadata"]["resourceVersion"] {
                    self.mismatches.push(format!("{} replaces another version", call.summary));
                }
                match &call.body {
                    // A JSON patch with one operation, which adds the status.
                    Value::Array(operations) => object["status"] = operations[0]["value"].clone(),
                    body => merge(&mut object, body),
                }
                Json(self.store(path.to_owned(), object)).into_response()
            }
        };
        self.calls.push(call);
        response
    }
}

/// Sets every field of `from` in `into`, as server-side apply does with the fields of a manager.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

async fn respond(State(api): State<ScriptedApi>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("bodies are in memory");
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    let mut parameters = parts.uri.query().unwrap_or_default().split('&');
    let manager = parameters.find_map(|parameter| parameter.strip_prefix("fieldManager="));
    let method = &parts.method;
    let events = format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events");
    let summary = match (path.strip_prefix(&events), manager) {
        // The names of events are generated.
        (Some(_), _) => format!("{method} {events} {}", body["reason"].as_str().unwrap_or_default()),
        (None, Some(manager)) => format!("{method} {path} as {}", manager.replace("%2F", "/")),
        (None, None) => format!("{method} {path}"),
    };
    api.state.lock().respond(&parts.method, &path, Call { summary, body })
}
