//! OpenAI's chat completions API (<https://platform.openai.com/docs/api-reference/chat>), which
//! DeepSeek, the router of Hugging Face, Ollama and LocalAI implement too.

use serde_json::{Value, json};

use super::{Chunk, Completion, Delivery, Prompt, ProviderId, ReadError, Usage, WireRequest};
use crate::model::provider::{DEEPSEEK_MODEL, OPENAI_MODEL};

pub(super) fn request(provider: ProviderId, model: &str, prompt: &Prompt, delivery: Delivery) -> WireRequest {
    let mut messages = Vec::new();
    if let Some(system) = &prompt.system {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": prompt.text}));
    let mut body = json!({"model": model, "messages": messages});
    // OpenAI has renamed this field; the others still use its former name.
    let limit = if provider == ProviderId::OpenAi { "max_completion_tokens" } else { "max_tokens" };
    body[limit] = prompt.max_tokens.into();
    // The default models reason before they answer unless this is disabled. Reasoning is charged and
    // counts against the limit, so a short answer might never begin.
    match (provider, model) {
        (ProviderId::OpenAi, OPENAI_MODEL) => body["reasoning_effort"] = "none".into(),
        (ProviderId::DeepSeek, DEEPSEEK_MODEL) => body["thinking"] = json!({"type": "disabled"}),
        _ => {}
    }
    if delivery == Delivery::Stream {
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
    }
    WireRequest { path: "/chat/completions".into(), body }
}

pub(super) fn read(value: &Value) -> Result<Completion, ReadError> {
    let choice = value["choices"].get(0).ok_or_else(|| ReadError::malformed("no choices"))?;
    // A response that only calls tools, or refuses, has no content.
    let text = choice["message"]["content"].as_str().unwrap_or_default().to_owned();
    Ok(Completion { text, usage: usage(&value["usage"]) })
}

pub(super) fn read_event(value: &Value) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    if let Some(text) = value["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
        chunks.push(Chunk::Text(text.to_owned()));
    }
    chunks.extend(usage(&value["usage"]).map(Chunk::Usage));
    chunks
}

fn usage(value: &Value) -> Option<Usage> {
    Some(Usage { input: value["prompt_tokens"].as_u64()?, output: value["completion_tokens"].as_u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_documented_response() {
        let value = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-mini",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
        });
        let expected = Completion { text: "Hello.".into(), usage: Some(Usage { input: 9, output: 12 }) };
        assert_eq!(read(&value), Ok(expected));
    }

    #[test]
    fn a_response_without_choices_is_malformed() {
        for value in [json!({}), json!([]), json!({"choices": []}), json!("hi"), json!(null)] {
            assert!(read(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn reads_the_documented_stream() {
        let delta = json!({"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": null}], "usage": null});
        assert_eq!(read_event(&delta), [Chunk::Text("Hel".into())]);
        let last = json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}});
        assert_eq!(read_event(&last), [Chunk::Usage(Usage { input: 3, output: 4 })]);
    }

    #[test]
    fn a_stream_request_asks_for_usage() {
        let prompt = Prompt { text: "hi".into(), system: Some("be brief".into()), max_tokens: 5 };
        let WireRequest { path, body } = request(ProviderId::Ollama, "m", &prompt, Delivery::Stream);
        assert_eq!(path, "/chat/completions");
        assert_eq!(body["messages"][0]["role"], "system");
        assert_eq!(body["stream_options"]["include_usage"], true);
    }

    #[test]
    fn each_provider_gets_the_token_limit_in_the_field_it_supports() {
        let prompt = Prompt { text: "hi".into(), system: None, max_tokens: 5 };
        let body = |provider, model| request(provider, model, &prompt, Delivery::Whole).body;
        let openai = body(ProviderId::OpenAi, OPENAI_MODEL);
        assert_eq!((&openai["max_completion_tokens"], openai.get("max_tokens")), (&json!(5), None));
        assert_eq!(openai["reasoning_effort"], "none");
        assert_eq!(
            body(ProviderId::OpenAi, "another").get("reasoning_effort"),
            None,
            "another model may not support it"
        );
        let deepseek = body(ProviderId::DeepSeek, DEEPSEEK_MODEL);
        assert_eq!((&deepseek["max_tokens"], deepseek.get("max_completion_tokens")), (&json!(5), None));
        assert_eq!(deepseek["thinking"]["type"], "disabled");
    }
}
