//! Protobuf over HTTP/1.1.

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

use super::{Again, CONNECT, EXPORT, Failure, USER_AGENT, chain};
use crate::environment::Extras;

/// As much of an answer as is read.
const ANSWER: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: Client,
    endpoint: String,
    gzip: bool,
}

impl Http {
    pub(crate) fn new(endpoint: String, extras: Extras) -> Result<Self, reqwest::Error> {
        let mut headers = extras.headers;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        if extras.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let client = Client::builder()
            .connect_timeout(CONNECT)
            .timeout(EXPORT)
            .redirect(redirect::Policy::none())
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .build()?;
        Ok(Self { client, endpoint, gzip: extras.gzip })
    }

    /// The body of a message. Compressing one takes milliseconds.
    pub(super) async fn prepared(&self, message: Bytes) -> Result<Bytes, String> {
        if !self.gzip {
            return Ok(message);
        }
        let compressed = tokio::task::spawn_blocking(move || {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&message).and_then(|()| gzip.finish())
        });
        match compressed.await {
            Ok(Ok(body)) => Ok(body.into()),
            Ok(Err(error)) => Err(format!("cannot compress: {error}")),
            Err(_) => Err("cannot compress: the runtime ends".to_owned()),
        }
    }

    pub(super) async fn post(&self, body: Bytes) -> Result<ExportTraceServiceResponse, Failure> {
        let answer = self.client.post(&self.endpoint).body(body).send().await.map_err(|error| Failure {
            // The address is told beside it.
            told: chain(&error.without_url()),
            again: Again::Soon,
        })?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Failure {
                told: format!("it answers {status}"),
                again: again(status, answer.headers()),
            });
        }
        // What was taken is taken, whatever is said about it.
        Ok(start_of(answer).await.and_then(|said| Message::decode(&said[..]).ok()).unwrap_or_default())
    }
}

fn again(status: StatusCode, headers: &HeaderMap) -> Again {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let wanted =
                headers.get(RETRY_AFTER).and_then(|wanted| wanted.to_str().ok()?.trim().parse().ok());
            wanted.map_or(Again::Soon, |seconds| Again::After(Duration::from_secs(seconds)))
        }
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Again::Soon,
        _ => Again::No,
    }
}

async fn start_of(mut answer: Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.ok()? {
        if body.len() + part.len() > ANSWER {
            return None;
        }
        body.extend_from_slice(&part);
    }
    Some(body)
}
