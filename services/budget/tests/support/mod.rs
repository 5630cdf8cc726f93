//! A budget service on a free port, and a server that speaks the providers' documented formats,
//! faults included.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use phase6_budget::SERVICE;
pub use phase6_chassis::testing::wait_until as until;
use phase6_chassis::{ApiKeys, Enforcer, INTERNAL, testing::TestService};
use phase6_store::Store;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the server does with the next request to a provider.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A whole answer, or its stream if that was asked for.
    Text(&'static str),
    /// The same without figures.
    TextWithoutUsage(&'static str),
    /// The same, later.
    Slow(Duration, &'static str),
    /// A status without anything.
    Status(u16),
    /// 429 with `Retry-After`.
    Throttle(u64),
    /// A body that does not follow the format.
    Malformed,
    /// The connection breaks in the middle of the body.
    Cut,
    /// The stream waits before its last piece until the gate opens.
    Held(&'static str),
    /// A body as it stands.
    Body(&'static str),
    /// A stream of events as they stand.
    Events(&'static [&'static str]),
}

/// What the server does when it is asked for its models.
#[derive(Clone, Copy, Debug)]
pub enum Models {
    /// Answers with a status.
    Status(u16),
    /// Never answers.
    Silent,
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

#[derive(Clone, Default)]
pub struct Providers {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
    models: Mutex<HashMap<String, Models>>,
    seen: Mutex<Vec<(String, Seen)>>,
    probes: Mutex<Vec<(String, HeaderMap)>>,
    pub gate: tokio::sync::Notify,
}

impl Providers {
    /// Says what the next requests to a provider get. The last one is given again and again.
    pub fn reply(&self, provider: &str, replies: impl IntoIterator<Item = Reply>) {
        self.inner.replies.lock().insert(provider.to_owned(), replies.into_iter().collect());
    }

    /// Says what is answered when a provider is asked for its models; without a word, 200 is.
    pub fn models(&self, provider: &str, models: Models) {
        self.inner.models.lock().insert(provider.to_owned(), models);
    }

    /// The headers of the questions for a provider's models.
    pub fn probes(&self, provider: &str) -> Vec<HeaderMap> {
        let probes = self.inner.probes.lock();
        probes.iter().filter(|(name, _)| name == provider).map(|(_, headers)| headers.clone()).collect()
    }

    pub fn seen(&self, provider: &str) -> Vec<Seen> {
        let seen = self.inner.seen.lock();
        seen.iter().filter(|(name, _)| name == provider).map(|(_, seen)| seen.clone()).collect()
    }

    pub fn open_gate(&self) {
        self.inner.gate.notify_waiters();
        self.inner.gate.notify_one();
    }

    async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(self);
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }
}

/// `/PROVIDER/...`: the first segment says who is meant.
async fn answer(State(providers): State<Providers>, request: Request) -> Response {
    let path = request.uri().path_and_query().unwrap().to_string();
    let provider = path.split('/').nth(1).unwrap_or_default().to_owned();
    if path.ends_with("/models") {
        providers.inner.probes.lock().push((provider.clone(), request.headers().clone()));
        let models = providers.inner.models.lock().get(&provider).copied();
        return match models {
            Some(Models::Silent) => std::future::pending().await,
            Some(Models::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
            None => axum::Json(json!({"object": "list", "data": []})).into_response(),
        };
    }
    let headers = request.headers().clone();
    let body = axum::body::to_bytes(request.into_body(), 10_000_000).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let streamed = body["stream"] == true || path.contains("streamGenerateContent");
    let wire = Format::of(&provider);
    providers.inner.seen.lock().push((provider.clone(), Seen { path, headers, body }));
    let reply = {
        let mut replies = providers.inner.replies.lock();
        let queue = replies.entry(provider).or_default();
        let next = queue.front().cloned().unwrap_or(Reply::Status(500));
        if queue.len() > 1 {
            queue.pop_front();
        }
        next
    };
    match reply {
        Reply::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Reply::Throttle(seconds) => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", seconds.to_string())]).into_response()
        }
        Reply::Body(text) => Response::new(Body::from(text)),
        Reply::Events(pieces) => events(pieces.iter().map(ToString::to_string).collect()),
        Reply::Malformed if streamed => events(vec!["{\"surprise\": tru".into()]),
        Reply::Malformed => axum::Json(json!({"surprise": true})).into_response(),
        Reply::Cut => {
            let broken =
                stream::iter([Ok(Bytes::from_static(b"{\"choices\": [")), Err(std::io::Error::other("cut"))]);
            let body = broken.then(|piece| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                piece
            });
            Response::new(Body::from_stream(body))
        }
        Reply::Slow(wait, text) => {
            tokio::time::sleep(wait).await;
            wire.answer(text, streamed, true)
        }
        Reply::Text(text) => wire.answer(text, streamed, true),
        Reply::TextWithoutUsage(text) => wire.answer(text, streamed, false),
        Reply::Held(text) => {
            let mut pieces: VecDeque<String> = wire.events(text, true).into();
            let first: Vec<_> = pieces.drain(..2).map(data).collect();
            let rest: Vec<_> = pieces.into_iter().map(data).collect();
            let gate = Arc::clone(&providers.inner);
            let later = stream::once(async move {
                gate.gate.notified().await;
                stream::iter(rest)
            })
            .flatten();
            let body = stream::iter(first).chain(later).map(Ok::<_, Infallible>);
            ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
        }
    }
}

fn data(event: String) -> Bytes {
    Bytes::from(format!("data: {event}\n\n"))
}

fn events(pieces: Vec<String>) -> Response {
    let body = stream::iter(pieces.into_iter().map(data)).map(Ok::<_, Infallible>);
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}

#[derive(Clone, Copy)]
enum Format {
    OpenAi,
    Anthropic,
    Gemini,
}

impl Format {
    fn of(provider: &str) -> Self {
        match provider {
            "anthropic" => Self::Anthropic,
            "gemini" => Self::Gemini,
            _ => Self::OpenAi,
        }
    }

    fn answer(self, text: &str, streamed: bool, usage: bool) -> Response {
        if streamed {
            return events(self.events(text, usage));
        }
        let mut body = match self {
            Self::OpenAi => json!({
                "object": "chat.completion",
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500},
            }),
            Self::Anthropic => json!({
                "type": "message", "role": "assistant",
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
                "usage": {"input_tokens": 1000, "output_tokens": 500},
            }),
            Self::Gemini => json!({
                "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": 1000, "candidatesTokenCount": 500},
            }),
        };
        if !usage {
            body["usage"] = Value::Null;
            body["usageMetadata"] = Value::Null;
        }
        axum::Json(body).into_response()
    }

    /// The documented events for a text in two pieces.
    fn events(self, text: &str, usage: bool) -> Vec<String> {
        let (a, b) = text.split_at(text.len() / 2);
        let events = match self {
            Self::OpenAi => vec![
                json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
                json!({"choices": [{"index": 0, "delta": {"content": a}}]}),
                json!({"choices": [{"index": 0, "delta": {"content": b}, "finish_reason": "stop"}]}),
                if usage {
                    json!({"choices": [], "usage": {"prompt_tokens": 1000, "completion_tokens": 500}})
                } else {
                    json!({"choices": []})
                },
            ],
            Self::Anthropic => vec![
                json!({"type": "message_start", "message": {"usage": {"input_tokens": 1000, "output_tokens": 1}}}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": a}}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": b}}),
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 500}}),
                json!({"type": "message_stop"}),
            ],
            Self::Gemini => vec![
                json!({"candidates": [{"content": {"parts": [{"text": a}]}}], "usageMetadata": {"promptTokenCount": 1000}}),
                json!({"candidates": [{"content": {"parts": [{"text": b}]}}], "usageMetadata": {"promptTokenCount": 1000, "candidatesTokenCount": 500}}),
            ],
        };
        let mut events: Vec<String> = events.iter().map(ToString::to_string).collect();
        if matches!(self, Self::OpenAi) {
            events.push("[DONE]".into());
        }
        events
    }
}

/// A budget service and what it needs.
pub struct Rig {
    pub base: String,
    pub providers: Providers,
    pub http: reqwest::Client,
    pub enforcer: Enforcer,
    service: TestService,
}

/// A budget service where these providers are set up on the test server, besides these settings.
pub async fn rig(providers: &[&str], settings: &[(&str, &str)]) -> Rig {
    rig_with_keys(providers, settings, ApiKeys::default()).await
}

pub async fn rig_with_keys(providers: &[&str], settings: &[(&str, &str)], keys: ApiKeys) -> Rig {
    let server = Providers::default();
    let address = server.clone().serve().await;
    let mut all: HashMap<String, String> = HashMap::new();
    for local in ["OLLAMA", "LOCALAI"] {
        all.insert(format!("{local}_ENABLED"), "false".into());
    }
    for provider in providers {
        let prefix = provider.to_uppercase();
        all.insert(format!("{prefix}_ENABLED"), "true".into());
        all.insert(format!("{prefix}_API_KEY"), format!("{provider}-secret-key"));
        all.insert(format!("{prefix}_BASE_URL"), format!("{address}/{provider}"));
    }
    all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let service = TestService::builder(&SERVICE).settings(all).api_keys(keys).start().await;
    Rig {
        base: service.url(""),
        providers: server,
        http: reqwest::Client::new(),
        enforcer: service.enforcer().clone(),
        service,
    }
}

impl Rig {
    pub async fn get(&self, path: &str) -> (u16, Value) {
        read(self.http.get(format!("{}{path}", self.base)).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        read(self.http.post(format!("{}{path}", self.base)).json(&body).send().await.unwrap()).await
    }

    pub async fn burst(&self, prompt: &str) -> (u16, Value) {
        self.post("/api/v1/providers/burst", json!({"prompt": prompt})).await
    }

    /// The same from one of our own services, which waits for so long.
    pub async fn burst_within(&self, milliseconds: u64, body: Value) -> (u16, Value) {
        let request = self.http.post(format!("{}/api/v1/providers/burst", self.base)).json(&body);
        let request = request.header(INTERNAL, self.service.host().access.internal.header());
        read(request.header("phase6-deadline-ms", milliseconds).send().await.unwrap()).await
    }

    /// Its records, as another replica sees them.
    pub async fn records(&self) -> Store {
        self.service.store().await
    }

    /// Connections that are open, ours included.
    pub async fn connections(&self) -> u64 {
        self.get("/api/v1/system/observability").await.1["connections"]["open"].as_u64().unwrap()
    }

    /// Waits until nothing is set aside; gives what is spent.
    pub async fn settled(&self) -> f64 {
        until("nothing is set aside", || async {
            self.get("/api/v1/budget").await.1["budget"]["reserved"] == 0.0
        })
        .await;
        self.used().await
    }

    pub async fn used(&self) -> f64 {
        self.get("/api/v1/budget").await.1["budget"]["used"].as_f64().unwrap()
    }

    pub async fn stop(self) {
        self.service.shutdown().await;
    }
}

async fn read(answer: reqwest::Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}
