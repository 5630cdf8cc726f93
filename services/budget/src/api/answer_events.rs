//! Server-sent events of a streamed answer: `meta`, any number of `token`, then `done` or `error`.

use std::convert::Infallible;

use axum::response::{
    IntoResponse, Response,
    sse::{KeepAlive, Sse},
};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::{
    answers::{FailedAttempt, Usage},
    names::Task,
    policy::ProviderPolicy,
    response::event,
};
use crate::app::{StreamEvent, StreamedAnswer};

/// Data of the event `meta`.
#[derive(Serialize)]
struct Meta {
    provider: &'static str,
    model: String,
    task: Task,
    attempts: Vec<FailedAttempt>,
    policy: ProviderPolicy,
}

/// Data of the event `token`.
#[derive(Serialize)]
struct Token {
    token: String,
}

/// Data of the event `done`.
#[derive(Serialize)]
struct Done {
    usage: Option<Usage>,
    /// Cost in dollars.
    cost: f64,
    estimated: bool,
}

/// Data of the event `error`.
#[derive(Serialize)]
struct Failed {
    code: &'static str,
    message: String,
}

/// Returns a streamed answer as server-sent events.
pub(super) fn response(answer: StreamedAnswer, policy: ProviderPolicy) -> Response {
    let meta = Meta {
        provider: answer.provider.as_str(),
        model: answer.model,
        task: answer.task.into(),
        attempts: answer.attempts.into_iter().map(Into::into).collect(),
        policy,
    };
    let first = stream::once(async move { event("meta", &meta) });
    let rest = answer.events.map(|part| match part {
        StreamEvent::Token(token) => event("token", &Token { token }),
        StreamEvent::Done { usage, cost, estimated } => {
            event("done", &Done { usage: usage.map(Into::into), cost: cost.dollars(), estimated })
        }
        StreamEvent::Failed(error) => {
            event("error", &Failed { code: "provider_failed", message: error.to_string() })
        }
    });
    let events = first.chain(rest).map(Ok::<_, Infallible>);
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
