//! Third-party crates keep to `deny.toml`: licenses, sources and banned crates. Reads `cargo metadata`, so it
//! needs neither `cargo-deny` nor the network; advisories are left to `cargo deny check`.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{collections::BTreeSet, path::Path};

use cargo_metadata::{Dependency, Metadata, MetadataCommand, Package};

/// Returns the first quoted string of each line in the list that follows `key = [` in `deny.toml`.
fn list(key: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(phase6_tests::root().join("deny.toml")).unwrap();
    let (_, rest) = text.split_once(&format!("\n{key} = [")).unwrap_or_else(|| panic!("no list {key}"));
    let (list, _) = rest.split_once("\n]").unwrap();
    let lines = list.lines().filter(|line| !line.trim_start().starts_with('#'));
    // The first string of a line: a license, or the name of a crate before its reason.
    lines.filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect()
}

/// Returns the packages that are built for one of the targets in `deny.toml`.
fn metadata(workspace: &Path) -> Metadata {
    let targets = list("targets").into_iter().flat_map(|target| ["--filter-platform".to_owned(), target]);
    MetadataCommand::new()
        .current_dir(workspace)
        .other_options(
            ["--locked".into(), "--offline".into(), "--all-features".into()]
                .into_iter()
                .chain(targets)
                .collect::<Vec<_>>(),
        )
        .exec()
        .unwrap()
}

fn third_party(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata.packages.iter().filter(|package| package.source.is_some())
}

/// True if a license expression can be satisfied with `allowed` licenses alone. Expressions of crates are
/// lists joined by `OR` and `AND`; `/` is an old spelling of `OR`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    // `AND` binds closer than `OR`; a group in parentheses is one operand.
    split(&expression, " OR ").iter().any(|choice| {
        split(choice, " AND ").iter().all(|part| {
            let part = part.trim();
            match part.strip_prefix('(').and_then(|part| part.strip_suffix(')')) {
                Some(group) => is_allowed(group, allowed),
                None => allowed.contains(part),
            }
        })
    })
}

/// Splits at an operator outside of parentheses.
fn split<'a>(expression: &'a str, operator: &str) -> Vec<&'a str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (index, c) in expression.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && index >= start && expression[index..].starts_with(operator) => {
                parts.push(&expression[start..index]);
                start = index + operator.len();
            }
            _ => {}
        }
    }
    parts.push(&expression[start..]);
    parts
}

#[test]
fn licenses_are_allowed() {
    let allowed = list("allow");
    assert!(allowed.contains("MIT") && allowed.len() > 5, "{allowed:?}");
    let metadata = metadata(&phase6_tests::root());
    let others: Vec<_> = third_party(&metadata)
        .filter(|package| !is_allowed(package.license.as_deref().unwrap_or("none"), &allowed))
        // A tool of the fuzzer, in no program that is shipped.
        .filter(|package| package.name.as_str() != "libfuzzer-sys")
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn banned_crates_are_not_used_and_every_source_is_crates_io() {
    let banned = list("deny");
    assert!(banned.contains("openssl-sys"), "{banned:?}");
    let metadata = metadata(&phase6_tests::root());
    for package in third_party(&metadata) {
        assert!(!banned.contains(package.name.as_str()), "{} is banned by deny.toml", package.name);
        let source = package.source.as_ref().unwrap();
        assert!(source.is_crates_io(), "{}: {source}", package.name);
    }
    for package in metadata.workspace_packages() {
        let is_open =
            |dependency: &&Dependency| dependency.path.is_none() && dependency.req.comparators.is_empty();
        let open: Vec<_> =
            package.dependencies.iter().filter(is_open).map(|dependency| &dependency.name).collect();
        assert!(open.is_empty(), "{} accepts every version of {open:?}", package.name);
    }
}

#[test]
fn a_license_expression_needs_one_allowed_choice() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "MIT AND ISC", "(MIT OR GPL-3.0) AND ISC"] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "none", "(GPL-3.0 OR LGPL-3.0) AND MIT"] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}
