//! One HTTP client for all providers, with a limit on every wait and every size.
//!
//! Redirects are not followed: an address comes from the operator or not at all. Keys are sent in
//! headers marked as sensitive and never stand in an error.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
};
use jiff::Timestamp;
use phase6_chassis::telemetry::{OutgoingCall, context::TRACEPARENT};
use reqwest::redirect::Policy;

use super::{Completion, Piece, Prompt, Provider, ProviderId, Unreadable, Usage, Wire, sse::Events};

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time until a stream begins.
const HEAD: Duration = Duration::from_secs(30);
/// Longest silence in a stream.
const SILENCE: Duration = Duration::from_secs(15);
/// Longest time for the question whether a local server answers.
const PROBE: Duration = Duration::from_millis(500);
/// Largest whole answer.
const LARGEST: usize = 4 * 1024 * 1024;
/// Most bytes of a stream: each token comes in an event of its own.
const LARGEST_STREAM: usize = 16 * 1024 * 1024;
/// Longest wait that a provider can ask for.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const X_GOOG_API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

/// A provider's key. Shown as dots.
#[derive(Clone)]
pub(crate) struct ApiKey(HeaderValue);

impl ApiKey {
    /// None if it cannot be sent in a header.
    pub(super) fn new(wire: Wire, key: &str) -> Option<Self> {
        let text = match wire {
            Wire::OpenAi => format!("Bearer {}", key.trim()),
            Wire::Anthropic | Wire::Gemini => key.trim().to_owned(),
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(...)")
    }
}

/// Why a call has no answer, by what it means for money and for the breaker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallFailed {
    /// It was not sent.
    #[error("cannot connect")]
    Unreachable,
    /// It was refused because of us: bad key, bad request, unknown model.
    #[error("refused with status {status}")]
    Refused {
        /// The status.
        status: u16,
    },
    /// It was refused for now.
    #[error("asked to wait")]
    Throttled {
        /// For how long, if the provider said.
        retry_after: Option<Duration>,
    },
    /// The provider failed.
    #[error("failed with status {status}")]
    Failed {
        /// The status.
        status: u16,
    },
    /// It took too long, after it was sent.
    #[error("took too long")]
    TooSlow,
    /// The connection broke, after it was sent.
    #[error("connection broke")]
    Broken,
    /// The answer does not follow the documented format.
    #[error("answer does not follow the documented format")]
    Malformed,
    /// It began to answer and then reported an error.
    #[error("reported an error")]
    Reported,
    /// The answer holds no text.
    #[error("answer holds no text")]
    Empty {
        /// Tokens that were used for it all the same, if the provider said.
        usage: Option<Usage>,
    },
}

impl CallFailed {
    /// Whether the provider may have done the work, and so may charge for it.
    pub fn may_be_charged(&self) -> bool {
        matches!(self, Self::TooSlow | Self::Broken | Self::Malformed | Self::Reported | Self::Empty { .. })
    }
}

/// Longest time for a whole answer of so many tokens: at fifty tokens a second, and some time to
/// begin.
pub fn time_for(max_tokens: u32) -> Duration {
    Duration::from_secs(15) + Duration::from_millis(20) * max_tokens
}

/// Why a local server cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotThere {
    /// Nothing answers at its address.
    Silent,
    /// Something answers, and refuses the question for its models.
    Status(u16),
}

/// The client.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
}

/// An answer that comes piece by piece. Ends after [`Piece::End`] or an error.
pub type Streaming = std::pin::Pin<Box<dyn Stream<Item = Result<Piece, CallFailed>> + Send>>;

impl Client {
    /// A client.
    ///
    /// # Errors
    ///
    /// The system's certificates cannot be read.
    pub fn new() -> Result<Self, reqwest::Error> {
        // Installed twice, the first one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(16)
            .redirect(Policy::none())
            .user_agent(concat!("phase6/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http })
    }

    /// Asks for a whole answer, within `limit` and as a part of `call`'s trace.
    ///
    /// # Errors
    ///
    /// See [`CallFailed`].
    pub async fn complete(
        &self,
        provider: &Provider,
        prompt: &Prompt,
        limit: Duration,
        call: Option<&OutgoingCall>,
    ) -> Result<Completion, CallFailed> {
        let asking = async {
            let answer = self.send(provider, prompt, false, call).await?;
            let body = read_whole(answer).await?;
            let completion =
                provider.wire().read(&body).map_err(|error| unreadable(provider.id(), &error))?;
            if completion.text.trim().is_empty() {
                return Err(CallFailed::Empty { usage: completion.usage });
            }
            Ok(completion)
        };
        tokio::time::timeout(limit, asking).await.unwrap_or(Err(CallFailed::TooSlow))
    }

    /// Asks for an answer that comes piece by piece; gives it when its head has come, within
    /// `limit`.
    ///
    /// # Errors
    ///
    /// See [`CallFailed`]; later ones come in the stream.
    pub async fn stream(
        &self,
        provider: &Provider,
        prompt: &Prompt,
        limit: Duration,
        call: Option<&OutgoingCall>,
    ) -> Result<Streaming, CallFailed> {
        let head = tokio::time::timeout(limit.min(HEAD), self.send(provider, prompt, true, call));
        let answer = head.await.unwrap_or(Err(CallFailed::TooSlow))?;
        Ok(pieces(provider.id(), provider.wire(), answer.bytes_stream().boxed()))
    }

    /// Whether a local server is there: it is asked for its models at `url`.
    pub(super) async fn probe(&self, provider: &Provider, url: &str) -> Result<(), NotThere> {
        let asking = self.http.get(url).headers(headers(provider, false)).timeout(PROBE).send().await;
        match asking.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => Err(NotThere::Status(status.as_u16())),
            Err(_) => Err(NotThere::Silent),
        }
    }

    async fn send(
        &self,
        provider: &Provider,
        prompt: &Prompt,
        stream: bool,
        call: Option<&OutgoingCall>,
    ) -> Result<reqwest::Response, CallFailed> {
        let (path, body) = provider.wire().request(provider.id(), provider.model(), prompt, stream);
        let url = format!("{}{path}", provider.base_url());
        let mut headers = headers(provider, stream);
        if let Some(call) = call {
            headers.insert(TRACEPARENT, call.context().to_header());
        }
        let request = self.http.post(url).headers(headers).json(&body);
        let answer = request.send().await.map_err(|error| {
            if error.is_connect() || error.is_builder() {
                CallFailed::Unreachable
            } else if error.is_timeout() {
                CallFailed::TooSlow
            } else {
                CallFailed::Broken
            }
        })?;
        let status = answer.status();
        match status.as_u16() {
            200..=299 => Ok(answer),
            // 529 is Anthropic's word for being overloaded.
            429 | 529 => Err(CallFailed::Throttled { retry_after: retry_after(answer.headers()) }),
            503 if answer.headers().contains_key(RETRY_AFTER) => {
                Err(CallFailed::Throttled { retry_after: retry_after(answer.headers()) })
            }
            code if status.is_server_error() => Err(CallFailed::Failed { status: code }),
            code => {
                tracing::warn!(provider = %provider.id(), status = code, "provider refuses our request");
                Err(CallFailed::Refused { status: code })
            }
        }
    }
}

fn headers(provider: &Provider, stream: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if stream {
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    }
    if provider.wire() == Wire::Anthropic {
        headers.insert(ANTHROPIC_VERSION, HeaderValue::from_static("2023-06-01"));
    }
    if let Some(ApiKey(key)) = provider.key() {
        let name = match provider.wire() {
            Wire::OpenAi => AUTHORIZATION,
            Wire::Anthropic => X_API_KEY,
            Wire::Gemini => X_GOOG_API_KEY,
        };
        headers.insert(name, key.clone());
    }
    headers
}

/// Seconds or a date (RFC 9110, section 10.2.3), at most a day.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number too large to hold is more than a day, too.
        text.parse().map_or(LONGEST_WAIT, Duration::from_secs)
    } else {
        let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Duration::try_from(date.duration_since(Timestamp::now())).unwrap_or_default()
    };
    Some(wait.min(LONGEST_WAIT))
}

fn unreadable(provider: ProviderId, error: &Unreadable) -> CallFailed {
    tracing::warn!(%provider, %error, "provider's answer holds no text");
    match error {
        Unreadable::Malformed(_) => CallFailed::Malformed,
        Unreadable::Busy(_) => CallFailed::Throttled { retry_after: None },
        Unreadable::Failed(_) => CallFailed::Reported,
    }
}

async fn read_whole(mut answer: reqwest::Response) -> Result<Bytes, CallFailed> {
    let mut body = BytesMut::new();
    while let Some(piece) = answer.chunk().await.map_err(|_| CallFailed::Broken)? {
        if body.len() + piece.len() > LARGEST {
            return Err(CallFailed::Malformed);
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

fn pieces<S>(provider: ProviderId, wire: Wire, bytes: S) -> Streaming
where
    S: Stream<Item = reqwest::Result<Bytes>> + Send + Unpin + 'static,
{
    struct Reading<S> {
        bytes: S,
        events: Events,
        received: usize,
        ready: std::collections::VecDeque<Result<Piece, CallFailed>>,
        done: bool,
    }
    let reading = Reading { bytes, events: Events::default(), received: 0, ready: [].into(), done: false };
    Box::pin(futures_util::stream::unfold(reading, move |mut reading| async move {
        loop {
            if let Some(piece) = reading.ready.pop_front() {
                if matches!(piece, Err(_) | Ok(Piece::End)) {
                    reading.done = true;
                    reading.ready.clear();
                }
                return Some((piece, reading));
            }
            if reading.done {
                return None;
            }
            match tokio::time::timeout(SILENCE, reading.bytes.next()).await {
                Err(_) => reading.ready.push_back(Err(CallFailed::TooSlow)),
                Ok(Some(Err(_))) => reading.ready.push_back(Err(CallFailed::Broken)),
                // A stream that just ends is complete only where the format has no other sign.
                Ok(None) if wire.says_end() => reading.ready.push_back(Err(CallFailed::Broken)),
                Ok(None) => reading.ready.push_back(Ok(Piece::End)),
                Ok(Some(Ok(bytes))) => {
                    reading.received += bytes.len();
                    match reading.events.push(&bytes) {
                        Ok(complete) if reading.received <= LARGEST_STREAM => {
                            for data in complete {
                                match wire.read_event(&data) {
                                    Ok(pieces) => reading.ready.extend(pieces.into_iter().map(Ok)),
                                    Err(error) => {
                                        reading.ready.push_back(Err(unreadable(provider, &error)));
                                    }
                                }
                            }
                        }
                        _ => reading.ready.push_back(Err(CallFailed::Malformed)),
                    }
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let after = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Tue, 24 Nov 2020 10:00:00 GMT"), Some(Duration::ZERO), "a date that is past");
        assert_eq!(after("soon"), None);
    }

    /// A provider's wish was passed on as it was, and the largest one overflowed.
    #[test]
    fn nobody_waits_for_longer_than_a_day() {
        for text in ["18446744073709551615", "99999999999999999999999", "24 Nov 2320 10:00:00 GMT"] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers), Some(LONGEST_WAIT), "{text}");
        }
    }

    #[test]
    fn a_longer_answer_has_more_time() {
        assert_eq!(time_for(0), Duration::from_secs(15));
        assert!(time_for(8192) > Duration::from_mins(2));
    }

    /// It would hold its place for as long as it goes on.
    #[tokio::test]
    async fn a_stream_without_end_is_cut() {
        let event = format!(
            "data: {}\n\n",
            serde_json::json!({"choices": [{"delta": {"content": "x".repeat(1 << 20)}}]})
        );
        let endless = futures_util::stream::repeat(Bytes::from(event)).map(Ok);
        let told: Vec<_> = pieces(ProviderId::OpenAi, Wire::OpenAi, endless).collect().await;
        assert_eq!(told.last(), Some(&Err(CallFailed::Malformed)));
        assert!(told.len() <= LARGEST_STREAM >> 20);
    }

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::new(Wire::OpenAi, "sk-secret").unwrap();
        assert!(!format!("{key:?} {:?}", key.0).contains("secret"));
        assert!(ApiKey::new(Wire::OpenAi, "line\nbreak").is_none());
    }
}
