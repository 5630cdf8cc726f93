//! Chat completions as OpenAI documents them
//! (<https://platform.openai.com/docs/api-reference/chat>), and as DeepSeek, Hugging Face's
//! router, Ollama and LocalAI speak them.

use serde_json::{Value, json};

use super::{Completion, Piece, Prompt, ProviderId, Unreadable, Usage};

/// The models that are asked for by default.
pub(super) const OPENAI_MODEL: &str = "gpt-6-luna";
pub(super) const DEEPSEEK_MODEL: &str = "deepseek-flash";

pub(super) fn request(provider: ProviderId, model: &str, prompt: &Prompt, stream: bool) -> (String, Value) {
    let mut messages = Vec::new();
    if let Some(system) = &prompt.system {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": prompt.text}));
    let mut body = json!({"model": model, "messages": messages});
    // OpenAI itself no longer takes the name that all others took over from it.
    let limit = if provider == ProviderId::OpenAi { "max_completion_tokens" } else { "max_tokens" };
    body[limit] = prompt.max_tokens.into();
    // The default models think before they answer unless they are told not to. What they think is
    // charged and counts against the limit, so that a short answer might never begin.
    match (provider, model) {
        (ProviderId::OpenAi, OPENAI_MODEL) => body["reasoning_effort"] = "none".into(),
        (ProviderId::DeepSeek, DEEPSEEK_MODEL) => body["thinking"] = json!({"type": "disabled"}),
        _ => {}
    }
    if stream {
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
    }
    ("/chat/completions".into(), body)
}

pub(super) fn read(value: &Value) -> Result<Completion, Unreadable> {
    let choice = value["choices"].get(0).ok_or_else(|| Unreadable::malformed("no choices"))?;
    // A model that only calls tools or refuses has no content.
    let text = choice["message"]["content"].as_str().unwrap_or_default().to_owned();
    Ok(Completion { text, usage: usage(&value["usage"]) })
}

pub(super) fn read_event(value: &Value) -> Vec<Piece> {
    let mut pieces = Vec::new();
    if let Some(text) = value["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
        pieces.push(Piece::Text(text.to_owned()));
    }
    pieces.extend(usage(&value["usage"]).map(Piece::Usage));
    pieces
}

fn usage(value: &Value) -> Option<Usage> {
    Some(Usage { input: value["prompt_tokens"].as_u64()?, output: value["completion_tokens"].as_u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_documented_answer() {
        let value = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-mini",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
        });
        let expected = Completion { text: "Hello.".into(), usage: Some(Usage { input: 9, output: 12 }) };
        assert_eq!(read(&value), Ok(expected));
    }

    #[test]
    fn an_answer_without_choices_is_malformed() {
        for value in [json!({}), json!([]), json!({"choices": []}), json!("hi"), json!(null)] {
            assert!(read(&value).is_err(), "{value}");
        }
    }

    #[test]
    fn reads_the_documented_stream() {
        let delta = json!({"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": null}], "usage": null});
        assert_eq!(read_event(&delta), [Piece::Text("Hel".into())]);
        let last = json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}});
        assert_eq!(read_event(&last), [Piece::Usage(Usage { input: 3, output: 4 })]);
    }

    #[test]
    fn asks_for_usage_when_streaming() {
        let prompt = Prompt { text: "hi".into(), system: Some("be brief".into()), max_tokens: 5 };
        let (path, body) = request(ProviderId::Ollama, "m", &prompt, true);
        assert_eq!(path, "/chat/completions");
        assert_eq!(body["messages"][0]["role"], "system");
        assert_eq!(body["stream_options"]["include_usage"], true);
    }

    #[test]
    fn each_provider_is_told_the_limit_by_the_name_it_knows() {
        let prompt = Prompt { text: "hi".into(), system: None, max_tokens: 5 };
        let body = |provider, model| request(provider, model, &prompt, false).1;
        let openai = body(ProviderId::OpenAi, OPENAI_MODEL);
        assert_eq!((&openai["max_completion_tokens"], openai.get("max_tokens")), (&json!(5), None));
        assert_eq!(openai["reasoning_effort"], "none");
        assert_eq!(body(ProviderId::OpenAi, "another").get("reasoning_effort"), None, "it might not know it");
        let deepseek = body(ProviderId::DeepSeek, DEEPSEEK_MODEL);
        assert_eq!((&deepseek["max_tokens"], deepseek.get("max_completion_tokens")), (&json!(5), None));
        assert_eq!(deepseek["thinking"]["type"], "disabled");
    }
}
