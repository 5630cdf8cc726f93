//! Reader of a streamed answer.

use std::time::Duration;

use phase6_chassis::testing::TestStream;
use serde_json::{Value, json};

use crate::harness::Harness;

/// Longest silence before a test fails.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// Server-sent events of a streamed answer.
pub struct EventStream {
    response: TestStream,
    buffer: String,
}

impl EventStream {
    /// Requests a streamed answer to a prompt.
    pub async fn open_prompt(harness: &Harness, prompt: &str) -> Self {
        Self::open(harness, json!({"prompt": prompt, "stream": true})).await
    }

    /// Requests a streamed answer.
    pub async fn open(harness: &Harness, body: Value) -> Self {
        let request = harness.post_request("/api/v1/providers/burst");
        let response = request.json(&body).open().await;
        assert_eq!(response.status, 200);
        assert_eq!(response.headers["content-type"], "text/event-stream");
        Self { response, buffer: String::new() }
    }

    /// Returns name and data of the next event.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name));
                    line.unwrap_or_default().trim().to_owned()
                };
                let event = (field("event:"), serde_json::from_str(&field("data:")).unwrap_or(Value::Null));
                self.buffer = String::from(rest);
                return Some(event);
            }
            let more = tokio::time::timeout(SILENCE_LIMIT, self.response.next()).await.unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&more).unwrap());
        }
    }

    /// Reads until the end and returns the data of the last event.
    pub async fn last(&mut self) -> Value {
        let mut last = Value::Null;
        while let Some((_, data)) = self.next().await {
            last = data;
        }
        last
    }
}
