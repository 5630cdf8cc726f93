//! Anthropic's Messages API (<https://docs.anthropic.com/en/api/messages>).

use serde_json::{Value, json};

use super::{Completion, Piece, Prompt, Unreadable, Usage};

pub(super) fn request(model: &str, prompt: &Prompt, stream: bool) -> (String, Value) {
    let mut body = json!({
        "model": model,
        "max_tokens": prompt.max_tokens,
        "messages": [{"role": "user", "content": prompt.text}],
    });
    if let Some(system) = &prompt.system {
        body["system"] = system.as_str().into();
    }
    if stream {
        body["stream"] = true.into();
    }
    ("/v1/messages".into(), body)
}

pub(super) fn read(value: &Value) -> Result<Completion, Unreadable> {
    let blocks = value["content"].as_array().ok_or_else(|| Unreadable::malformed("no content"))?;
    let text =
        blocks.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str());
    Ok(Completion { text: text.collect(), usage: usage(&value["usage"]) })
}

pub(super) fn read_event(value: &Value) -> Result<Vec<Piece>, Unreadable> {
    Ok(match value["type"].as_str() {
        Some("content_block_delta") => match value["delta"]["text"].as_str() {
            Some(text) => vec![Piece::Text(text.to_owned())],
            None => vec![],
        },
        Some("message_start") => usage(&value["message"]["usage"]).map(Piece::Usage).into_iter().collect(),
        // Only what came back is told again at the end; what was sent stays as it was.
        Some("message_delta") => match value["usage"]["output_tokens"].as_u64() {
            Some(output) => {
                let input = value["usage"]["input_tokens"].as_u64().unwrap_or(0);
                vec![Piece::Usage(Usage { input, output })]
            }
            None => vec![],
        },
        Some("message_stop") => vec![Piece::End],
        Some(_) => vec![],
        None => return Err(Unreadable::malformed("an event without a type")),
    })
}

fn usage(value: &Value) -> Option<Usage> {
    Some(Usage { input: value["input_tokens"].as_u64()?, output: value["output_tokens"].as_u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_documented_answer() {
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
        let pieces: Vec<_> = events.iter().flat_map(|event| read_event(event).unwrap()).collect();
        assert_eq!(
            pieces,
            [
                Piece::Usage(Usage { input: 25, output: 1 }),
                Piece::Text("Hello".into()),
                Piece::Usage(Usage { input: 0, output: 15 }),
                Piece::End,
            ]
        );
        assert!(read_event(&json!({})).is_err());
    }
}
