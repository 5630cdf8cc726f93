//! What is generated is committed and up to date.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use phase6_tests::root;

#[test]
fn the_definition_and_its_page_are_those_of_the_types() {
    let definition = phase6_crds::definition_yaml();
    let page = phase6_crds::reference_markdown();
    for (file, text) in [
        ("crds/phase6services.yaml", &definition),
        ("charts/phase6/crds/phase6services.yaml", &definition),
        ("docs/reference/phase6service.md", &page),
    ] {
        let committed = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        assert!(committed == *text, "{file} is not what the types say; renew it with `cargo xtask crd`");
    }
}

#[test]
fn the_example_fleet_has_the_design_s_defaults() {
    let text = std::fs::read_to_string(root().join("crds/examples/fleet.yaml")).unwrap();
    let documents = phase6_crds::read("fleet.yaml", &text).unwrap();
    let shown: Vec<_> = documents
        .iter()
        .map(|document| {
            let spec = &document.resource.spec;
            let limit = spec.rate_limit.as_ref().map(|limit| (limit.capacity, limit.refill_per_second));
            let ttl = spec.cache.as_ref().map(|cache| cache.ttl.to_string());
            (spec.service.as_str(), ttl, limit, spec.tracing.sampling_rate)
        })
        .collect();
    let ttl = |text: &str| Some(text.to_owned());
    assert_eq!(
        shown,
        [
            ("web", None, Some((1000, 100.0)), 0.10),
            ("training", None, None, 0.15),
            ("meta", None, None, 0.20),
            ("budget", ttl("5s"), Some((100, 10.0)), 0.10),
            ("coach", None, None, 0.10),
            ("segmentation", None, None, 0.15),
            ("reports", ttl("10s"), None, 0.10),
            ("capabilities", None, None, 0.10),
        ]
    );
}
