//! A server that imitates every provider in its documented format, including faults.

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
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Reaction to a request for an answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An answer, whole or as a stream.
    Text(&'static str),
    /// An answer whose tokens are not reported.
    TextWithoutUsage(&'static str),
    /// An answer after a delay.
    Slow(Duration, &'static str),
    /// A status with an empty body.
    Status(u16),
    /// Status 429 with `Retry-After` in seconds.
    Throttle(u64),
    /// A body that does not follow the documented format.
    Malformed,
    /// A body that breaks off.
    Cut,
    /// A stream whose second part waits for [`FakeProviders::release_held`].
    Held(&'static str),
    /// A literal body.
    Body(&'static str),
    /// A stream of literal events.
    Events(&'static [&'static str]),
}

/// Reaction to a probe, which requests the models.
#[derive(Clone, Copy, Debug)]
pub enum ProbeReply {
    /// A status with an empty body.
    Status(u16),
    /// No response.
    Silent,
}

/// A request for an answer, as the server received it.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

/// Server that imitates every provider. Clones share its state.
#[derive(Clone, Default)]
pub struct FakeProviders {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
    probe_replies: Mutex<HashMap<String, ProbeReply>>,
    requests: Mutex<Vec<(String, ReceivedRequest)>>,
    probes: Mutex<Vec<(String, HeaderMap)>>,
    held: tokio::sync::Notify,
}

impl FakeProviders {
    /// Sets the reactions to the next requests to a provider. The last one is repeated.
    pub fn reply(&self, provider: &str, replies: impl IntoIterator<Item = Reply>) {
        self.inner.replies.lock().insert(provider.to_owned(), replies.into_iter().collect());
    }

    /// Sets the reaction to probes of a provider, which is status 200 otherwise.
    pub fn reply_to_probes(&self, provider: &str, reply: ProbeReply) {
        self.inner.probe_replies.lock().insert(provider.to_owned(), reply);
    }

    /// Returns the headers of the probes of a provider.
    pub fn probes(&self, provider: &str) -> Vec<HeaderMap> {
        let probes = self.inner.probes.lock();
        probes.iter().filter(|(name, _)| name == provider).map(|(_, headers)| headers.clone()).collect()
    }

    /// Returns the requests for answers of a provider.
    pub fn requests(&self, provider: &str) -> Vec<ReceivedRequest> {
        let requests = self.inner.requests.lock();
        requests.iter().filter(|(name, _)| name == provider).map(|(_, request)| request.clone()).collect()
    }

    /// Continues held streams.
    pub fn release_held(&self) {
        self.inner.held.notify_waiters();
        self.inner.held.notify_one();
    }

    /// Starts the server and returns its address.
    pub async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(respond).with_state(self);
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }
}

/// Handles `/PROVIDER/...`.
async fn respond(State(providers): State<FakeProviders>, request: Request) -> Response {
    let path = request.uri().path_and_query().unwrap().to_string();
    let provider = path.split('/').nth(1).unwrap_or_default().to_owned();
    if path.ends_with("/models") {
        providers.inner.probes.lock().push((provider.clone(), request.headers().clone()));
        let reply = providers.inner.probe_replies.lock().get(&provider).copied();
        return match reply {
            Some(ProbeReply::Silent) => std::future::pending().await,
            Some(ProbeReply::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
            None => axum::Json(json!({"object": "list", "data": []})).into_response(),
        };
    }
    let headers = request.headers().clone();
    let body = axum::body::to_bytes(request.into_body(), 10_000_000).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let is_stream = body["stream"] == true || path.contains("streamGenerateContent");
    let format = Format::of(&provider);
    let request = ReceivedRequest { path, headers, body };
    providers.inner.requests.lock().push((provider.clone(), request));
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
        Reply::Events(data) => events(data.iter().map(ToString::to_string).collect()),
        Reply::Malformed if is_stream => events(vec!["{\"surprise\": tru".into()]),
        Reply::Malformed => axum::Json(json!({"surprise": true})).into_response(),
        Reply::Cut => {
            let broken =
                stream::iter([Ok(Bytes::from_static(b"{\"choices\": [")), Err(std::io::Error::other("cut"))]);
            let body = broken.then(|part| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                part
            });
            Response::new(Body::from_stream(body))
        }
        Reply::Slow(wait, text) => {
            tokio::time::sleep(wait).await;
            format.answer(text, is_stream, true)
        }
        Reply::Text(text) => format.answer(text, is_stream, true),
        Reply::TextWithoutUsage(text) => format.answer(text, is_stream, false),
        Reply::Held(text) => {
            let mut events: VecDeque<String> = format.events(text, true).into();
            let first: Vec<_> = events.drain(..2).map(data).collect();
            let rest: Vec<_> = events.into_iter().map(data).collect();
            let inner = Arc::clone(&providers.inner);
            let later = stream::once(async move {
                inner.held.notified().await;
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

fn events(events: Vec<String>) -> Response {
    let body = stream::iter(events.into_iter().map(data)).map(Ok::<_, Infallible>);
    ([("content-type", "text/event-stream")], Body::from_stream(body)).into_response()
}

/// Wire format of a provider.
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

    /// Returns an answer with or without its usage.
    fn answer(self, text: &str, is_stream: bool, has_usage: bool) -> Response {
        if is_stream {
            return events(self.events(text, has_usage));
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
        if !has_usage {
            body["usage"] = Value::Null;
            body["usageMetadata"] = Value::Null;
        }
        axum::Json(body).into_response()
    }

    /// Returns the documented events of an answer in two parts.
    fn events(self, text: &str, has_usage: bool) -> Vec<String> {
        let (a, b) = text.split_at(text.len() / 2);
        let events = match self {
            Self::OpenAi => vec![
                json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
                json!({"choices": [{"index": 0, "delta": {"content": a}}]}),
                json!({"choices": [{"index": 0, "delta": {"content": b}, "finish_reason": "stop"}]}),
                if has_usage {
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
