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
use reqwest::redirect::Policy;

use super::{Completion, Piece, Prompt, Provider, Wire, sse::Events};

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// Longest time for a whole answer.
const WHOLE: Duration = Duration::from_secs(30);
/// Longest silence in a stream.
const SILENCE: Duration = Duration::from_secs(15);
/// Longest time for the question whether a local server answers.
const PROBE: Duration = Duration::from_millis(500);
/// Largest whole answer.
const LARGEST: usize = 4 * 1024 * 1024;

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
    /// The answer holds no text.
    #[error("answer holds no text")]
    Empty,
}

impl CallFailed {
    /// Whether the provider may have done the work, and so may charge for it.
    pub fn may_be_charged(&self) -> bool {
        matches!(self, Self::TooSlow | Self::Broken | Self::Malformed | Self::Empty)
    }
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

    /// Asks for a whole answer.
    ///
    /// # Errors
    ///
    /// See [`CallFailed`].
    pub async fn complete(&self, provider: &Provider, prompt: &Prompt) -> Result<Completion, CallFailed> {
        let asking = async {
            let answer = self.send(provider, prompt, false).await?;
            let body = read_whole(answer).await?;
            let completion = provider.wire().read(&body).map_err(|error| {
                tracing::warn!(provider = %provider.id(), %error, "provider's answer is malformed");
                CallFailed::Malformed
            })?;
            if completion.text.trim().is_empty() { Err(CallFailed::Empty) } else { Ok(completion) }
        };
        tokio::time::timeout(WHOLE, asking).await.unwrap_or(Err(CallFailed::TooSlow))
    }

    /// Asks for an answer that comes piece by piece; gives it when its head has come.
    ///
    /// # Errors
    ///
    /// See [`CallFailed`]; later ones come in the stream.
    pub async fn stream(&self, provider: &Provider, prompt: &Prompt) -> Result<Streaming, CallFailed> {
        let head = tokio::time::timeout(WHOLE, self.send(provider, prompt, true));
        let answer = head.await.unwrap_or(Err(CallFailed::TooSlow))?;
        Ok(pieces(provider.wire(), answer.bytes_stream().boxed()))
    }

    /// Whether a server answers at all.
    pub(super) async fn answers(&self, url: &str) -> bool {
        let asking = self.http.get(url).timeout(PROBE).send().await;
        asking.is_ok_and(|answer| answer.status().is_success())
    }

    async fn send(
        &self,
        provider: &Provider,
        prompt: &Prompt,
        stream: bool,
    ) -> Result<reqwest::Response, CallFailed> {
        let (path, body) = provider.wire().request(provider.model(), prompt, stream);
        let url = format!("{}{path}", provider.base_url());
        let request = self.http.post(url).headers(headers(provider, stream)).json(&body);
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

/// Seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(Timestamp::now())).unwrap_or_default())
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

fn pieces<S>(wire: Wire, bytes: S) -> Streaming
where
    S: Stream<Item = reqwest::Result<Bytes>> + Send + Unpin + 'static,
{
    struct Reading<S> {
        bytes: S,
        events: Events,
        ready: std::collections::VecDeque<Result<Piece, CallFailed>>,
        done: bool,
    }
    let reading = Reading { bytes, events: Events::default(), ready: [].into(), done: false };
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
                Ok(Some(Ok(bytes))) => match reading.events.push(&bytes) {
                    Err(_) => reading.ready.push_back(Err(CallFailed::Malformed)),
                    Ok(complete) => {
                        for data in complete {
                            match wire.read_event(&data) {
                                Ok(pieces) => reading.ready.extend(pieces.into_iter().map(Ok)),
                                Err(error) => {
                                    tracing::warn!(%error, "provider's stream is malformed");
                                    reading.ready.push_back(Err(CallFailed::Malformed));
                                }
                            }
                        }
                    }
                },
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

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::new(Wire::OpenAi, "sk-secret").unwrap();
        assert!(!format!("{key:?} {:?}", key.0).contains("secret"));
        assert!(ApiKey::new(Wire::OpenAi, "line\nbreak").is_none());
    }
}
