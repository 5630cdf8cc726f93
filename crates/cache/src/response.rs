//! The answer to a request: an entry's, with its age, without its body where the client has it, and
//! with what was done about it in `Cache-Status` (RFC 9211).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode,
    header::{AGE, CACHE_CONTROL, CONTENT_LENGTH, ETAG, IF_NONE_MATCH},
};

use crate::{Entry, Terms, ask::Shared, front};

/// Headers that are added to a stored answer on its way out.
const ROOM_FOR_HEADERS: usize = 12;

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why the handler was asked, in the words of RFC 9211.
#[derive(Clone, Copy)]
pub(crate) enum Forward {
    UriMiss,
    Stale,
    Request,
}

impl Forward {
    const fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}

/// What `Cache-Status` says.
pub(crate) enum Told {
    Hit { ttl: Option<i64>, detail: Option<&'static str> },
    Joined,
    Forward { why: Forward, stored: bool },
}

impl Shared {
    /// The answer to a request for which an entry was fetched, or the spare one if that failed; counts
    /// it as what it is.
    pub(crate) fn settle<ReqBody, ResBody: From<Bytes>>(
        &self,
        entry: &Entry,
        spare: Option<&Entry>,
        request: &Request<ReqBody>,
        terms: &Terms,
        told: Told,
    ) -> Response<ResBody> {
        if let Some(spare) = spare.filter(|_| entry.status.is_server_error()) {
            return self.stand_in(spare, request, terms);
        }
        let counts = self.cache.counts();
        let count = if matches!(told, Told::Joined) { &counts.joined } else { &counts.misses };
        count.fetch_add(1, Ordering::Relaxed);
        self.answer(entry, request, terms, self.cache.now_ms(), &told)
    }

    /// A stale answer in the place of a failed one.
    pub(crate) fn stand_in<ReqBody, ResBody: From<Bytes>>(
        &self,
        spare: &Entry,
        request: &Request<ReqBody>,
        terms: &Terms,
    ) -> Response<ResBody> {
        self.cache.counts().stale_hits.fetch_add(1, Ordering::Relaxed);
        let told = Told::Hit { ttl: None, detail: Some("stale-if-error") };
        self.answer(spare, request, terms, self.cache.now_ms(), &told)
    }

    pub(crate) fn answer<ReqBody, ResBody: From<Bytes>>(
        &self,
        entry: &Entry,
        request: &Request<ReqBody>,
        terms: &Terms,
        now_ms: u64,
        told: &Told,
    ) -> Response<ResBody> {
        (self.ask.set_label)(request.extensions(), &entry.label);
        // Conditions are about what is there (RFC 9110, section 13.2.1).
        let unchanged = entry.status.is_success()
            && request
                .headers()
                .get(IF_NONE_MATCH)
                .is_some_and(|wanted| matches_etag(wanted, entry.headers.get(ETAG)));
        let mut answer = if unchanged || request.method() == Method::HEAD {
            Response::new(ResBody::from(Bytes::new()))
        } else {
            Response::new(ResBody::from(entry.body.clone()))
        };
        *answer.status_mut() = if unchanged { StatusCode::NOT_MODIFIED } else { entry.status };
        // With room for what the layers outside add, so that the map does not grow on every hit.
        let mut headers = HeaderMap::with_capacity(entry.headers.len() + ROOM_FOR_HEADERS);
        for (name, value) in &entry.headers {
            headers.append(name.clone(), value.clone());
        }
        *answer.headers_mut() = headers;
        if request.method() == Method::HEAD && !unchanged {
            answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(entry.body.len()));
        }
        let age = (entry.age(now_ms) + entry.storable.age).as_secs();
        answer.headers_mut().insert(AGE, HeaderValue::from(age));
        // A failure says itself what is to be done with it.
        if !entry.status.is_server_error() {
            let private = (self.ask.client)(request.extensions()).authorised;
            answer.headers_mut().insert(CACHE_CONTROL, front::control(entry, private, terms));
        }
        self.tell(&mut answer, told);
        answer
    }

    pub(crate) fn tell<ResBody>(&self, answer: &mut Response<ResBody>, told: &Told) {
        // On the path of every hit, so without `format!`.
        let mut text = String::with_capacity(self.name.len() + 64);
        text.push_str(&self.name);
        match told {
            Told::Hit { ttl, detail } => {
                text.push_str("; hit");
                if let Some(ttl) = ttl {
                    text.push_str("; ttl=");
                    text.push_str(itoa::Buffer::new().format(*ttl));
                }
                if let Some(detail) = detail {
                    text.push_str("; detail=");
                    text.push_str(detail);
                }
            }
            Told::Joined => text.push_str("; fwd=uri-miss; collapsed"),
            Told::Forward { why, stored } => {
                text.push_str("; fwd=");
                text.push_str(why.as_str());
                if *stored {
                    text.push_str("; stored");
                }
            }
        }
        if let Ok(value) = HeaderValue::from_str(&text) {
            answer.headers_mut().append(CACHE_STATUS, value);
        }
    }
}

/// Whether `If-None-Match` names the entry's tag; weak comparison, as the standard asks.
fn matches_etag(wanted: &HeaderValue, held: Option<&HeaderValue>) -> bool {
    let (Ok(wanted), Some(Ok(held))) = (wanted.to_str(), held.map(HeaderValue::to_str)) else { return false };
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    wanted.trim() == "*" || wanted.split(',').any(|tag| strong(tag) == strong(held))
}
