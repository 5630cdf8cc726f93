//! OTLP as protobuf over HTTP/1.1.

use std::{io::Write, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER},
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use reqwest::{Client, Response, redirect};

use super::{CONNECT_TIMEOUT, EXPORT_TIMEOUT, Failure, Retry, USER_AGENT, error_chain};
use crate::environment::ExportOptions;

/// Maximum size of a response body that is read.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct HttpSender {
    client: Client,
    endpoint: String,
    gzip: bool,
}

impl HttpSender {
    pub(crate) fn new(endpoint: String, options: ExportOptions) -> Result<Self, reqwest::Error> {
        let mut headers = options.headers;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if options.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(EXPORT_TIMEOUT)
            .redirect(redirect::Policy::none())
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .build()?;
        Ok(Self { client, endpoint, gzip: options.gzip })
    }

    /// Compresses a message if configured. Runs on a blocking thread, because it takes milliseconds.
    pub(super) async fn compress(&self, message: Bytes) -> Result<Bytes, String> {
        if !self.gzip {
            return Ok(message);
        }
        let compression = tokio::task::spawn_blocking(move || {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&message).and_then(|()| gzip.finish())
        });
        match compression.await {
            Ok(Ok(body)) => Ok(body.into()),
            Ok(Err(error)) => Err(format!("failed to compress the message: {error}")),
            Err(_) => Err("failed to compress the message: the runtime is shutting down".to_owned()),
        }
    }

    pub(super) async fn post(&self, body: Bytes) -> Result<ExportTraceServiceResponse, Failure> {
        let response = self.client.post(&self.endpoint).body(body).send().await.map_err(|error| Failure {
            // The log names the endpoint in a separate field.
            message: error_chain(&error.without_url()),
            retry: Retry::Backoff,
        })?;
        let status = response.status();
        if !status.is_success() {
            return Err(Failure {
                message: format!("collector responded with {status}"),
                retry: retry(status, response.headers()),
            });
        }
        // With a success status the collector has accepted the message, even if its body cannot be decoded.
        Ok(read_body(response).await.and_then(|body| Message::decode(&body[..]).ok()).unwrap_or_default())
    }
}

fn retry(status: StatusCode, headers: &HeaderMap) -> Retry {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            seconds.map_or(Retry::Backoff, |seconds| Retry::After(Duration::from_secs(seconds)))
        }
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Retry::Backoff,
        _ => Retry::Never,
    }
}

/// Reads a response body. Returns `None` if it exceeds [`MAX_RESPONSE_BYTES`] or breaks off.
async fn read_body(mut response: Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}
