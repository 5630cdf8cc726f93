//! `Phase6Service` manifests: a valid one can be written and read back, and compiles into a policy that a
//! pod accepts; every error is one line that names its position.

#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use phase6_manifest::{Owner, check_policy, compile, read, settings};
use serde_json::json;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let manifests = match read("fleet.yaml", text) {
        Ok(manifests) => manifests,
        Err(errors) => {
            assert!(!errors.is_empty());
            // A carriage return ends a line, too.
            let most = text.split(['\r', '\n']).count() + 1;
            for error in errors {
                let line = error.to_string();
                assert!(line.starts_with("fleet.yaml:") && line.lines().count() == 1, "one line: {line:?}");
                assert!(error.line.is_none_or(|number| number as usize <= most), "{line}");
                assert!(error.field.is_none_or(|(field, _)| !field.is_empty()), "{line}");
            }
            return;
        }
    };
    for manifest in &manifests {
        // JSON is YAML.
        let written = serde_json::to_string(&manifest.value).expect("plain data");
        let again = read("again.yaml", &written).expect("what is written can be read");
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].policy, manifest.policy, "and is the same");
        let owner = Owner { uid: "uid", generation: 1 };
        let compiled = compile(owner, manifest.policy.clone(), None, 3, Timestamp::UNIX_EPOCH)
            .expect("the first one always exists");
        assert!(
            check_policy(&json!(compiled.policy)).is_empty(),
            "a pod accepts what the API server accepts"
        );
        assert_eq!(compile(owner, manifest.policy.clone(), Some(&compiled), 3, Timestamp::UNIX_EPOCH), None);
        assert!(!settings(manifest).is_empty());
    }
});
