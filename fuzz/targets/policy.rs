//! A compiled policy as a pod finds it in its ConfigMap: what is taken is written and read back the same and
//! keeps its bounds, what is refused is refused by the name of a field.

#![no_main]

use libfuzzer_sys::fuzz_target;
use phase6_manifest::{check_policy, fingerprint};
use phase6_policy::{Duration, Match, PolicyDocument};
use phase6_ratelimit::{Limits, gcra::Bucket};
use serde_json::json;

fn duration(text: &str) {
    let Ok(duration) = text.parse::<Duration>() else { return };
    assert_eq!(duration.to_string().parse(), Ok(duration), "what is printed reads back");
}

/// What an override matches, said in another way than it is decided.
fn is_meant(matches: &Match, path: &str) -> bool {
    let segments = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    matches.path.as_deref().is_none_or(|wanted| match wanted.strip_suffix("/*") {
        Some(parent) => segments(path).starts_with(&segments(parent)),
        None => path == wanted,
    })
}

/// What a policy that keeps the rules makes of the limiter.
fn limits(document: &PolicyDocument) {
    let Some(policy) = &document.policy.rate_limit else { return };
    for rule in &policy.overrides {
        let path = rule.matches.path.as_deref().unwrap_or("/");
        for path in [path, path.trim_end_matches("/*"), "/", "/api/v1"] {
            let method = rule.matches.method.map_or("GET", phase6_policy::Method::as_str);
            assert_eq!(rule.matches.accepts(method, path), is_meant(&rule.matches, path), "{path}");
        }
    }
    let replicas = document.replicas.clamp(1, 100);
    let whole = Limits::new(policy, replicas, true);
    let part = Limits::new(policy, replicas, false);
    let (whole, part) = (whole.rule("GET", "/").config.limit, part.rule("GET", "/").config.limit);
    assert!((1.0..=1e6).contains(&whole.capacity()) && (0.001..=1e6).contains(&whole.refill_per_second()));
    assert!(part.capacity() <= whole.capacity() && part.refill_per_second() <= whole.refill_per_second());
    let mut bucket = Bucket::default();
    let burst = (0..=1_000).filter(|_| bucket.decide(&whole, 1, 1).is_admitted()).count();
    assert_eq!(burst as f64, whole.capacity().min(1_001.0), "a full bucket is its capacity");
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        duration(text);
    }
    let Ok(document) = serde_json::from_slice::<PolicyDocument>(data) else { return };
    let written = serde_json::to_vec(&document).expect("plain data");
    let again: PolicyDocument = serde_json::from_slice(&written).expect("what is written can be read");
    assert_eq!(again, document, "what is written reads back");
    assert_eq!(fingerprint(&again.policy), fingerprint(&document.policy));
    assert!(!document.supersedes(&again) && !again.supersedes(&document), "it is the same");
    let violations = check_policy(&json!(document.policy));
    for violation in &violations {
        let line = violation.to_string();
        assert!(violation.field.starts_with("policy.") && line[1..].starts_with(&violation.field), "{line}");
        assert!(!violation.message.is_empty() && !line.contains('\n'), "{line}");
    }
    if violations.is_empty() {
        limits(&document);
    }
});
