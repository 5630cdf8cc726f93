//! An HTTP client for tests: one connection per request.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, StatusCode,
    header::{CONTENT_TYPE, HOST},
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::TcpStream;

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

pub(super) async fn get(address: SocketAddr, path: &str) -> TestResponse {
    send(address, request(Method::GET, address, path, Bytes::new())).await
}

pub(super) async fn post(address: SocketAddr, path: &str, body: &impl Serialize) -> TestResponse {
    let body = serde_json::to_vec(body).expect("the body can be written as JSON");
    let mut request = request(Method::POST, address, path, body.into());
    request.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a content type"));
    send(address, request).await
}

fn request(method: Method, address: SocketAddr, path: &str, body: Bytes) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header(HOST, address.to_string());
    request.body(Full::new(body)).expect("a valid path")
}

async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> TestResponse {
    let socket = TcpStream::connect(address).await.expect("the service listens");
    let (mut sender, driver) = http1::handshake(TokioIo::new(socket)).await.expect("a connection");
    tokio::spawn(driver);
    let response = sender.send_request(request).await.expect("a response");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    TestResponse { status: parts.status, headers: parts.headers, body }
}
