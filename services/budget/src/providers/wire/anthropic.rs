//! Anthropic's Messages API (<https://docs.anthropic.com/en/api/messages>).

use serde_json::{Value, json};

use super::{Chunk, Completion, Delivery, Prompt, ReadError, Usage, WireRequest};

pub(super) fn request(model: &str, prompt: &Prompt, delivery: Delivery) -> WireRequest {
    let mut body = json!({
        "model": model,
        "max_tokens": prompt.max_tokens,
        "messages": [{"role": "user", "content": prompt.text}],
    });
    if let Some(system) = &prompt.system {
        body["system"] = system.as_str().into();
    }
    if delivery == Delivery::Stream {
        body["stream"] = true.into();
    }
    WireRequest { path: "/v1/messages".into(), body }
}

pub(super) fn read(value: &Value) -> Result<Completion, ReadError> {
    let blocks = value["content"].as_array().ok_or_else(|| ReadError::malformed("no content"))?;
    let text =
        blocks.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str());
    Ok(Completion { text: text.collect(), usage: usage(&value["usage"]) })
}

pub(super) fn read_event(value: &Value) -> Result<Vec<Chunk>, ReadError> {
    Ok(match value["type"].as_str() {
        Some("content_block_delta") => match value["delta"]["text"].as_str() {
            Some(text) => vec![Chunk::Text(text.to_owned())],
            None => vec![],
        },
        Some("message_start") => usage(&value["message"]["usage"]).map(Chunk::Usage).into_iter().collect(),
        // The end of the stream reports output tokens; input tokens are often left out.
        Some("message_delta") => match value["usage"]["output_tokens"].as_u64() {
            Some(output) => {
                let input = value["usage"]["input_tokens"].as_u64().unwrap_or(0);
                vec![Chunk::Usage(Usage { input, output })]
            }
            None => vec![],
        },
        Some("message_stop") => vec![Chunk::End],
        Some(_) => vec![],
        None => return Err(ReadError::malformed("an event without a type")),
    })
}

fn usage(value: &Value) -> Option<Usage> {
    Some(Usage { input: value["input_tokens"].as_u64()?, output: value["output_tokens"].as_u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_documented_response() {
        let value = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude",
            "content": [{"type": "text", "text": "Hi, "}, {"type": "tool_use"}, {"type": "text", "text": "there."}],
            "stop_reason": "end_turn", "usage": {"input_tokens": 10, "output_tokens": 25},
        });
        let expected = Completion { text: "Hi, there.".into(), usage: Some(Usage { input: 10, output: 25 }) };
        assert_eq!(read(&value), Ok(expected));
        assert!(read(&json!({"content": "text"})).is_err());
    }

    #[test]
    fn reads_the_documented_stream() {
        let events = [
            json!({"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "ping"}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}}),
            json!({"type": "message_stop"}),
        ];
        let chunks: Vec<_> = events.iter().flat_map(|event| read_event(event).unwrap()).collect();
        assert_eq!(
            chunks,
            [
                Chunk::Usage(Usage { input: 25, output: 1 }),
                Chunk::Text("Hello".into()),
                Chunk::Usage(Usage { input: 0, output: 15 }),
                Chunk::End,
            ]
        );
        assert!(read_event(&json!({})).is_err());
    }
}
