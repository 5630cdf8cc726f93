//! Checks that the modules of the operator depend on each other as `src/lib.rs` draws it.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Returns the layer of each module, from the last drawing in the documentation of the crate. The topmost
/// layer is 0.
fn drawn_layers(lib: &str) -> BTreeMap<String, usize> {
    let docs: Vec<_> = lib.lines().filter_map(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let start = docs.iter().rposition(|line| *line == "```text").unwrap();
    let layers = docs[start + 1..].iter().take_while(|line| **line != "```");
    let mut drawn = BTreeMap::new();
    for (layer, line) in layers.enumerate() {
        let (modules, _) = line.split_once("--").unwrap();
        for module in modules.split(',') {
            assert_eq!(drawn.insert(module.trim().to_owned(), layer), None, "{module} is drawn twice");
        }
    }
    drawn
}

/// Returns the modules of the crate that a source file names outside of its tests.
fn dependencies(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]\nmod ").next().unwrap();
    let code: String =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            found.extend(first_identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut item_begins = true;
        for (at, c) in group.char_indices() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => item_begins = true,
                _ if item_begins && c.is_alphabetic() => {
                    found.extend(first_identifier(&group[at..]));
                    item_begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn first_identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// Collects the sources below `folder`, except tests, by module.
fn collect(folder: &Path, module: Option<&str>, sources: &mut BTreeMap<String, Vec<String>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        if ["lib", "main", "fixtures", "tests"].contains(&stem.as_str()) {
            // The crate's root and tests may name any module.
        } else if path.is_dir() {
            collect(&path, module.or(Some(&stem)), sources);
        } else if is_source {
            let source = fs::read_to_string(&path).unwrap();
            sources.entry(module.unwrap_or(&stem).to_owned()).or_default().push(source);
        }
    }
}

#[test]
fn modules_depend_only_on_modules_that_are_drawn_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layers = drawn_layers(&fs::read_to_string(src.join("lib.rs")).unwrap());
    let mut sources = BTreeMap::new();
    collect(&src, None, &mut sources);
    assert_eq!(
        layers.keys().collect::<Vec<_>>(),
        sources.keys().collect::<Vec<_>>(),
        "every module is drawn"
    );
    let mut wrong = Vec::new();
    for (module, sources) in &sources {
        for dependency in sources.iter().flat_map(|source| dependencies(source)) {
            if dependency != *module && layers[&dependency] <= layers[module] {
                wrong.push(format!("{module} -> {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "dependencies that point upwards or sideways: {wrong:?}");
}

#[test]
fn dependencies_are_found_in_groups_and_paths_but_not_in_comments_and_tests() {
    let source = "//! [`a`](crate::a)\nuse crate::{b::{c, d}, e, f::g};\nfn h() { crate::i::j() }\n\
                  #[cfg(test)]\nmod tests { use crate::k; }";
    let found = dependencies(source);
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["b", "e", "f", "i"]);
}
