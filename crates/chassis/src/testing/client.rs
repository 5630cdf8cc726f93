//! An HTTP client for tests: one connection per request.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{CONTENT_TYPE, HOST},
    request::Builder,
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::{INTERNAL, Principal, identity::InternalToken};

/// A request that is not yet sent.
#[must_use = "it is not sent yet"]
pub struct TestRequest {
    address: SocketAddr,
    /// Token of our own services.
    internal: InternalToken,
    builder: Builder,
    body: Bytes,
}

impl TestRequest {
    pub(super) fn new(address: SocketAddr, internal: InternalToken, method: Method, path: &str) -> Self {
        let builder = Request::builder().method(method).uri(path).header(HOST, address.to_string());
        Self { address, internal, builder, body: Bytes::new() }
    }

    /// Adds a header.
    pub fn header<N, V>(mut self, name: N, value: V) -> Self
    where
        N: TryInto<HeaderName, Error: Into<http::Error>>,
        V: TryInto<HeaderValue, Error: Into<http::Error>>,
    {
        self.builder = self.builder.header(name, value);
        self
    }

    /// Authenticates the request as one of our own services, which makes it on behalf of a principal.
    pub fn on_behalf_of(self, principal: &Principal) -> Self {
        let assertion = self.internal.sign(principal, Timestamp::now());
        self.header(INTERNAL, assertion)
    }

    /// Sets the body, without a content type.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body and the content type of JSON.
    pub fn json(self, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("the body can be written as JSON");
        self.header(CONTENT_TYPE, "application/json").body(body)
    }

    /// Sends the request, and waits for the whole response. Dropping the future closes the connection.
    pub async fn send(self) -> TestResponse {
        self.open().await.read().await
    }

    /// Sends the request, and waits for the head of the response.
    pub async fn open(self) -> TestStream {
        let request = self.builder.body(Full::new(self.body)).expect("a valid path and valid headers");
        let socket = TcpStream::connect(self.address).await.expect("the service listens");
        let (mut sender, driver) = http1::handshake(TokioIo::new(socket)).await.expect("a connection");
        let connection = AbortOnDropHandle::new(tokio::spawn(driver));
        let (head, body) = sender.send_request(request).await.expect("a response").into_parts();
        TestStream { status: head.status, headers: head.headers, body, _connection: connection }
    }
}

/// A response whose body is read in parts. Dropping it closes the connection.
pub struct TestStream {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
    /// Task of the connection.
    _connection: AbortOnDropHandle<hyper::Result<()>>,
}

impl TestStream {
    /// Waits for the next part of the body; `None` at its end, and if the connection breaks.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Ok(part) = self.body.frame().await?.ok()?.into_data() {
                return Some(part);
            }
        }
    }

    /// Waits for the rest of the body.
    pub async fn read(self) -> TestResponse {
        let body = self.body.collect().await.expect("a whole body").to_bytes();
        TestResponse { status: self.status, headers: self.headers, body }
    }
}

/// A response with its whole body.
#[derive(Clone, Debug)]
pub struct TestResponse {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl TestResponse {
    /// Body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// Body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Body as JSON, of a response that must be successful.
    pub(super) fn success_json<T: DeserializeOwned>(&self) -> T {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text());
        self.json()
    }
}
