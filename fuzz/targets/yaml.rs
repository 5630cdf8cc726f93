//! `Phase6Service` documents as people write them: what is read is written and read back the same and
//! compiles into a policy that a pod takes; what is refused is told in lines that name their place.

#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use phase6_crds::{check_policy, compile, read, settings};
use serde_json::json;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let documents = match read("fleet.yaml", text) {
        Ok(documents) => documents,
        Err(faults) => {
            assert!(!faults.is_empty());
            // A carriage return ends a line too.
            let most = text.split(['\r', '\n']).count() + 1;
            for fault in faults {
                let told = fault.to_string();
                assert!(told.starts_with("fleet.yaml:") && told.lines().count() == 1, "one line: {told:?}");
                assert!(fault.line.is_none_or(|line| line as usize <= most), "{told}");
                assert!(fault.field.is_none_or(|(field, _)| !field.is_empty()), "{told}");
            }
            return;
        }
    };
    for document in &documents {
        // JSON is YAML.
        let written = serde_json::to_string(&document.value).expect("plain data");
        let again = read("again.yaml", &written).expect("what is written can be read");
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].resource.spec.policy(), document.resource.spec.policy(), "and is the same");
        let compiled = compile(&document.resource, None, 3, Timestamp::UNIX_EPOCH).expect("it is the first");
        assert!(check_policy(&json!(compiled.policy)).is_empty(), "a pod takes what the API server takes");
        assert_eq!(compile(&document.resource, Some(&compiled), 3, Timestamp::UNIX_EPOCH), None);
        assert!(!settings(document).is_empty());
    }
});
