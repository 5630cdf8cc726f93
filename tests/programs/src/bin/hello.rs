//! Baseline of the HTTP benchmark: the smallest axum service. `hello PORT SIZE` responds to `GET /` with a
//! constant JSON body of SIZE bytes.

#![allow(clippy::unwrap_used, reason = "a baseline that cannot start has no use")]

use axum::{Router, routing::get};
use http::header::CONTENT_TYPE;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().and_then(|text| text.parse().ok()).unwrap();
    let (port, size): (u16, usize) = (number(), number() as usize);
    let body: &'static str =
        Box::leak(format!("\"{}\"", "x".repeat(size.saturating_sub(2))).into_boxed_str());
    let app =
        Router::new().route("/", get(move || async move { ([(CONTENT_TYPE, "application/json")], body) }));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    axum::serve(listener, app).await.unwrap();
}
