//! Google's Gemini API (<https://ai.google.dev/api/generate-content>).

use serde_json::{Value, json};

use super::{Chunk, Completion, Delivery, Prompt, ReadError, Usage, WireRequest};

pub(super) fn request(model: &str, prompt: &Prompt, delivery: Delivery) -> WireRequest {
    let mut body = json!({
        "contents": [{"role": "user", "parts": [{"text": prompt.text}]}],
        "generationConfig": {"maxOutputTokens": prompt.max_tokens},
    });
    if let Some(system) = &prompt.system {
        body["systemInstruction"] = json!({"parts": [{"text": system}]});
    }
    let path = match delivery {
        Delivery::Whole => format!("/v1beta/models/{model}:generateContent"),
        Delivery::Stream => format!("/v1beta/models/{model}:streamGenerateContent?alt=sse"),
    };
    WireRequest { path, body }
}

pub(super) fn read(value: &Value) -> Result<Completion, ReadError> {
    if value["candidates"].get(0).is_none() && value["promptFeedback"].is_null() {
        return Err(ReadError::malformed("no candidates"));
    }
    Ok(Completion { text: text(value), usage: usage(value) })
}

pub(super) fn read_event(value: &Value) -> Result<Vec<Chunk>, ReadError> {
    if !value.is_object() {
        return Err(ReadError::malformed("an event that is not an object"));
    }
    let mut chunks = Vec::new();
    let text = text(value);
    if !text.is_empty() {
        chunks.push(Chunk::Text(text));
    }
    chunks.extend(usage(value).map(Chunk::Usage));
    Ok(chunks)
}

fn text(value: &Value) -> String {
    let parts = value["candidates"][0]["content"]["parts"].as_array();
    parts.into_iter().flatten().filter_map(|part| part["text"].as_str()).collect()
}

fn usage(value: &Value) -> Option<Usage> {
    let usage = &value["usageMetadata"];
    let thoughts = usage["thoughtsTokenCount"].as_u64().unwrap_or(0);
    Some(Usage {
        input: usage["promptTokenCount"].as_u64()?,
        output: usage["candidatesTokenCount"].as_u64().unwrap_or(0).saturating_add(thoughts),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_documented_response() {
        let value = json!({
            "candidates": [{"content": {"parts": [{"text": "Hel"}, {"text": "lo"}], "role": "model"}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 7, "totalTokenCount": 11},
        });
        let expected = Completion { text: "Hello".into(), usage: Some(Usage { input: 4, output: 7 }) };
        assert_eq!(read(&value), Ok(expected));
        assert!(read(&json!({})).is_err());
    }

    #[test]
    fn a_blocked_prompt_has_no_text() {
        let blocked =
            json!({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}});
        assert_eq!(read(&blocked).unwrap().text, "");
    }

    #[test]
    fn reads_the_documented_stream() {
        let event = json!({"candidates": [{"content": {"parts": [{"text": "Hi"}]}}], "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 1}});
        assert_eq!(
            read_event(&event),
            Ok(vec![Chunk::Text("Hi".into()), Chunk::Usage(Usage { input: 4, output: 1 })])
        );
        assert!(read_event(&json!("text")).is_err());
    }
}
