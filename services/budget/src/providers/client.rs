//! HTTP client of all providers, with a limit on every wait and every size.
//!
//! Redirects are not followed: requests go to configured addresses only. API keys are sent in headers
//! that are marked as sensitive, and never appear in an error.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER},
};
use jiff::Timestamp;
use phase6_chassis::{
    Clock,
    telemetry::{OutgoingCall, context::TRACEPARENT},
};
use reqwest::redirect::Policy;

use super::{
    CallError, ChunkStream, Completion, Provider,
    chunks::{call_error, decode},
    wire::{Delivery, WireFormat},
};
use crate::model::Prompt;

/// Time limit for connecting.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Time limit from a request to the head of a streamed response.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Time limit for probing a local server.
const PROBE_LIMIT: Duration = Duration::from_millis(500);
/// Time that an idle connection is kept.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// Maximum number of idle connections per host.
const MAX_IDLE_CONNECTIONS: usize = 16;
/// Maximum size of a whole response, in bytes.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;
/// Longest wait that is accepted from a provider.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// Status with which Anthropic reports that it is overloaded.
const OVERLOADED: u16 = 529;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const X_GOOG_API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

/// HTTP client of all providers. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    clock: Clock,
}

/// Failure to find a local server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeError {
    /// Nothing responds at the address.
    NoResponse,
    /// A server responds to the request for its models with an error status.
    Status(u16),
}

/// Returns the time limit for a whole answer of `max_tokens` tokens: 15 seconds to begin, and then
/// 50 tokens per second.
pub fn answer_time_limit(max_tokens: u32) -> Duration {
    Duration::from_secs(15) + Duration::from_millis(20) * max_tokens
}

impl Client {
    /// Creates a client. `clock` turns the dates of providers into waits.
    ///
    /// # Errors
    ///
    /// The certificates of the system cannot be read.
    pub fn new(clock: Clock) -> Result<Self, reqwest::Error> {
        // Fails if a provider is installed already, which is then used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .redirect(Policy::none())
            .user_agent(concat!("phase6/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http, clock })
    }

    /// Requests a whole answer within `limit`, as a part of the trace of `span`.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    pub async fn complete(
        &self,
        provider: &Provider,
        prompt: &Prompt,
        limit: Duration,
        span: Option<&OutgoingCall>,
    ) -> Result<Completion, CallError> {
        let call = async {
            let response = self.send(provider, prompt, Delivery::Whole, span).await?;
            let body = read_body(response).await?;
            let completion =
                provider.format().read(&body).map_err(|error| call_error(provider.id(), &error))?;
            if completion.text.trim().is_empty() {
                return Err(CallError::Empty { usage: completion.usage });
            }
            Ok(completion)
        };
        tokio::time::timeout(limit, call).await.unwrap_or(Err(CallError::TooSlow))
    }

    /// Requests a streamed answer. Returns when the head of the response has arrived, within
    /// `limit`.
    ///
    /// # Errors
    ///
    /// See [`CallError`]. Later failures are items of the stream.
    pub async fn stream(
        &self,
        provider: &Provider,
        prompt: &Prompt,
        limit: Duration,
        span: Option<&OutgoingCall>,
    ) -> Result<ChunkStream, CallError> {
        let head = self.send(provider, prompt, Delivery::Stream, span);
        let head = tokio::time::timeout(limit.min(HEAD_LIMIT), head).await;
        let response = head.unwrap_or(Err(CallError::TooSlow))?;
        Ok(decode(provider.id(), provider.format(), response.bytes_stream().boxed()))
    }

    /// Checks that a local server responds, by requesting its models at `url`.
    pub(super) async fn probe(&self, provider: &Provider, url: &str) -> Result<(), ProbeError> {
        let headers = headers(provider, Delivery::Whole);
        let response = self.http.get(url).headers(headers).timeout(PROBE_LIMIT).send().await;
        match response.map(|response| response.status()) {
            Ok(status) if status.is_success() => Ok(()),
            Ok(status) => Err(ProbeError::Status(status.as_u16())),
            Err(_) => Err(ProbeError::NoResponse),
        }
    }

    async fn send(
        &self,
        provider: &Provider,
        prompt: &Prompt,
        delivery: Delivery,
        span: Option<&OutgoingCall>,
    ) -> Result<reqwest::Response, CallError> {
        let request = provider.format().request(provider.id(), provider.model(), prompt, delivery);
        let url = provider.base_url().join(&request.path);
        let mut headers = headers(provider, delivery);
        if let Some(span) = span {
            headers.insert(TRACEPARENT, span.context().to_header());
        }
        let sending = self.http.post(url).headers(headers).json(&request.body).send();
        let response = sending.await.map_err(|error| {
            if error.is_connect() || error.is_builder() {
                CallError::Unreachable
            } else if error.is_timeout() {
                CallError::TooSlow
            } else {
                CallError::Broken
            }
        })?;
        let status = response.status();
        let throttled =
            || CallError::Throttled { retry_after: retry_after(response.headers(), self.clock.now()) };
        match status.as_u16() {
            200..=299 => Ok(response),
            429 | OVERLOADED => Err(throttled()),
            503 if response.headers().contains_key(RETRY_AFTER) => Err(throttled()),
            code if status.is_server_error() => Err(CallError::Failed { status: code }),
            code => {
                tracing::warn!(provider = %provider.id(), status = code, "provider refused the request");
                Err(CallError::Refused { status: code })
            }
        }
    }
}

fn headers(provider: &Provider, delivery: Delivery) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if delivery == Delivery::Stream {
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    }
    if provider.format() == WireFormat::Anthropic {
        headers.insert(ANTHROPIC_VERSION, HeaderValue::from_static("2023-06-01"));
    }
    if let Some(key) = provider.api_key() {
        let (name, value) = match provider.format() {
            WireFormat::OpenAi => (AUTHORIZATION, key.bearer()),
            WireFormat::Anthropic => (X_API_KEY, key.plain()),
            WireFormat::Gemini => (X_GOOG_API_KEY, key.plain()),
        };
        headers.insert(name, value);
    }
    headers
}

/// Reads `Retry-After`: seconds or a date (RFC 9110, section 10.2.3), at most a day.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that overflows is more than a day as well.
        text.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Duration::try_from(date.duration_since(now)).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

async fn read_body(mut response: reqwest::Response) -> Result<Bytes, CallError> {
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(|_| CallError::Broken)? {
        if body.len() + part.len() > MAX_RESPONSE_BYTES {
            return Err(CallError::Malformed);
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_retry_after_in_both_forms() {
        let now = "2020-11-24T10:00:00Z".parse().unwrap();
        let after = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Tue, 24 Nov 2020 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(after("Tue, 24 Nov 2020 09:59:30 GMT"), Some(Duration::ZERO), "a date in the past");
        assert_eq!(after("soon"), None);
    }

    /// Regression: the wait that a provider asked for was not limited, and the largest one overflowed.
    #[test]
    fn retry_after_is_at_most_a_day() {
        for text in ["18446744073709551615", "99999999999999999999999", "24 Nov 2320 10:00:00 GMT"] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, Timestamp::UNIX_EPOCH), Some(MAX_RETRY_AFTER), "{text}");
        }
    }

    #[test]
    fn a_longer_answer_has_more_time() {
        assert_eq!(answer_time_limit(0), Duration::from_secs(15));
        assert!(answer_time_limit(8192) > Duration::from_mins(2));
    }
}
