//! Simulated origin: a handler with random responses, each of which may be delayed until a gate is opened.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    model::{Call, History, Moment, OriginResponse, Vary},
    seeded_rng::SeededRng,
};

/// State that the origin, the slow level and the sequence share.
pub struct Environment {
    pub rng: SeededRng,
    pub history: History,
    pub clock: Arc<AtomicU64>,
    events: u64,
    /// Closed gates, each of which holds up one operation.
    pub gates: Vec<oneshot::Sender<()>>,
}

impl Environment {
    pub fn new(seed: u64, clock: Arc<AtomicU64>) -> Self {
        // Scrambled, because neighboring seeds would begin with similar numbers.
        let rng = SeededRng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d);
        Self { rng, history: History::default(), clock, events: 0, gates: Vec::new() }
    }

    /// Returns the moment of an event that happens now.
    pub fn record_event(&mut self) -> Moment {
        self.events += 1;
        Moment { event: self.events, ms: self.clock.load(Ordering::Relaxed) }
    }

    fn begin_call(&mut self, requester: usize, is_get: bool) -> usize {
        let (started, response) = (self.record_event(), self.random_response());
        let call = Call { requester, is_get, started, ended: None, response, reported_stored: false };
        self.history.calls.push(call);
        self.history.calls.len() - 1
    }

    fn end_call(&mut self, number: usize) {
        let ended = self.record_event();
        self.history.calls[number].ended.get_or_insert(ended);
    }

    /// Returns a gate that is open, or that the sequence opens later.
    pub fn gate(&mut self) -> oneshot::Receiver<()> {
        let (open, opened) = oneshot::channel();
        if self.rng.below(3) == 0 {
            self.gates.push(open);
        }
        opened
    }

    /// Most responses are storable; each way to forbid or limit storing occurs among the others.
    fn random_response(&mut self) -> OriginResponse {
        let rng = &mut self.rng;
        let seconds_once_in = |rng: &mut SeededRng, n: u64| {
            let seconds = [0, 1, 2, 4, 8, 20];
            rng.once_in(n).then(|| rng.one_of(&seconds))
        };
        let status =
            if rng.once_in(3) { rng.one_of(&[404, 410, 301, 302, 500, 503, 503, 429, 206]) } else { 200 };
        let tags = match rng.below(24) {
            0..8 => vec![vec!["red".to_owned(), "blue".to_owned()]],
            8..12 => vec![vec!["red".to_owned()], vec!["blue".to_owned()]],
            12 => vec![(0..40).map(|i| format!("t{i}")).chain(["blue".to_owned()]).collect()],
            _ => vec![],
        };
        OriginResponse {
            status,
            no_store: rng.once_in(20),
            no_cache: rng.once_in(20),
            private: rng.once_in(20),
            public: rng.once_in(2),
            must_revalidate: rng.once_in(12),
            max_age: seconds_once_in(rng, 3),
            s_maxage: seconds_once_in(rng, 10),
            expires: seconds_once_in(rng, 10),
            stale_while_revalidate: seconds_once_in(rng, 8),
            stale_if_error: seconds_once_in(rng, 8),
            age: if rng.once_in(8) { rng.one_of(&[1, 3, 7]) } else { 0 },
            vary: match rng.below(24) {
                0..6 => Vary::Language,
                6 => Vary::Credentials,
                7 => Vary::Everything,
                _ => Vary::Nothing,
            },
            has_cookie: rng.once_in(20),
            tags,
            breaks: rng.once_in(20),
        }
    }
}

/// Handles one request, when its gate is open.
pub async fn handle(
    environment: Arc<Mutex<Environment>>,
    requester: usize,
    is_get: bool,
) -> Result<Response<Body>, Infallible> {
    let (number, gate) = {
        let mut environment = environment.lock();
        (environment.begin_call(requester, is_get), environment.gate())
    };
    let _ = gate.await;
    let (response, gate) = {
        let mut environment = environment.lock();
        (environment.history.calls[number].response.clone(), environment.gate())
    };
    let body = Body::Call { gate, number, breaks: response.breaks, environment: Arc::clone(&environment) };
    let mut http = Response::new(body);
    *http.status_mut() = StatusCode::from_u16(response.status).unwrap();
    write_headers(&response, http.headers_mut());
    http.headers_mut().insert("x-call", number.into());
    Ok(http)
}

fn write_headers(response: &OriginResponse, headers: &mut HeaderMap) {
    let flags = [
        (response.no_store, "no-store"),
        (response.no_cache, "no-cache"),
        (response.private, "private"),
        (response.public, "public"),
        (response.must_revalidate, "must-revalidate"),
    ];
    let times = [
        (response.max_age, "max-age"),
        (response.s_maxage, "s-maxage"),
        (response.stale_while_revalidate, "stale-while-revalidate"),
        (response.stale_if_error, "stale-if-error"),
    ];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name.to_owned());
    let times =
        times.into_iter().filter_map(|(seconds, name)| seconds.map(|seconds| format!("{name}={seconds}")));
    let directives: Vec<String> = flags.chain(times).collect();
    if !directives.is_empty() {
        headers.insert("cache-control", directives.join(", ").parse().unwrap());
    }
    if let Some(seconds) = response.expires {
        let date = SystemTime::UNIX_EPOCH + Duration::from_hours(490_000);
        let format = |time| httpdate::fmt_http_date(time).parse().unwrap();
        headers.insert("date", format(date));
        headers.insert("expires", format(date + Duration::from_secs(seconds)));
    }
    if response.age > 0 {
        headers.insert("age", response.age.into());
    }
    match response.vary {
        Vary::Nothing => {}
        Vary::Language => drop(headers.insert("vary", "accept-language".parse().unwrap())),
        Vary::Credentials => drop(headers.insert("vary", "accept, authorization".parse().unwrap())),
        Vary::Everything => drop(headers.insert("vary", "*".parse().unwrap())),
    }
    if response.has_cookie {
        headers.insert("set-cookie", "a=b".parse().unwrap());
    }
    for line in &response.tags {
        headers.append("surrogate-key", line.join(" ").parse().unwrap());
    }
}

/// Body of a response: the number of the call that made it.
pub enum Body {
    Whole(Option<Bytes>),
    Call { gate: oneshot::Receiver<()>, number: usize, breaks: bool, environment: Arc<Mutex<Environment>> },
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Self::Call { number, environment, .. } = self {
            environment.lock().end_call(*number);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let (text, breaks) = match &mut *self {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Call { gate, number, breaks, .. } => {
                if Pin::new(gate).poll(cx).is_pending() {
                    return Poll::Pending;
                }
                (number.to_string(), *breaks)
            }
        };
        *self = Self::Whole(None);
        Poll::Ready(Some(if breaks { Err("the body breaks off") } else { Ok(Frame::data(text.into())) }))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Call { number, .. } => number.to_string().len() as u64,
        })
    }
}
