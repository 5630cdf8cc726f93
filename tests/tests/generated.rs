//! Generated files are committed and match their sources.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use phase6_catalog::SERVICES;
use phase6_tests::root;

#[test]
fn the_definition_and_its_page_match_the_types() {
    let definition = phase6_crds::definition_yaml();
    let page = phase6_crds::reference_markdown();
    for (file, text) in [
        ("crds/phase6services.yaml", &definition),
        ("charts/phase6/crds/phase6services.yaml", &definition),
        ("docs/reference/phase6service.md", &page),
    ] {
        let committed = std::fs::read_to_string(root().join(file)).unwrap_or_default();
        assert!(committed == *text, "{file} differs from the types; regenerate it with `cargo xtask crd`");
    }
}

#[test]
fn the_page_of_all_settings_matches_their_declarations() {
    let committed = std::fs::read_to_string(root().join("docs/reference/settings.md")).unwrap_or_default();
    assert!(committed == phase6_runner::settings_page(), "regenerate it with `cargo xtask crd`");
}

#[test]
fn the_chart_s_demo_is_the_example_fleet() {
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap_or_default();
    let copy = read("charts/phase6/files/fleet.yaml");
    assert!(copy == read("crds/examples/fleet.yaml"), "regenerate it with `cargo xtask crd`");
}

#[test]
fn the_example_fleet_has_every_service_with_the_settings_of_the_design() {
    let text = std::fs::read_to_string(root().join("crds/examples/fleet.yaml")).unwrap();
    let manifests = phase6_manifest::read("fleet.yaml", &text).unwrap();
    let services: Vec<_> = manifests.iter().map(|manifest| manifest.service.service()).collect();
    assert_eq!(services, SERVICES.iter().collect::<Vec<_>>(), "regenerate it with `cargo xtask crd`");
    for (name, ttl, limit, sampling_rate) in [
        ("web", None, Some((1000, 100.0)), 0.10),
        ("training", None, None, 0.15),
        ("meta", None, None, 0.20),
        ("budget", Some("5s"), Some((100, 10.0)), 0.10),
        ("coach", None, None, 0.10),
        ("segmentation", None, None, 0.15),
        ("reports", Some("10s"), None, 0.10),
        ("capabilities", None, None, 0.10),
    ] {
        let manifest = manifests.iter().find(|manifest| manifest.service.as_str() == name).unwrap();
        let policy = &manifest.policy;
        let found_limit = policy.rate_limit.as_ref().map(|limit| (limit.capacity, limit.refill_per_second));
        let found_ttl = policy.cache.as_ref().map(|cache| cache.ttl.to_string());
        let found = (found_ttl.as_deref(), found_limit, policy.tracing.sampling_rate);
        assert_eq!(found, (ttl, limit, sampling_rate), "{name}");
    }
}
