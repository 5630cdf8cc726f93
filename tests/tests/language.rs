//! Names and doc comments keep to `docs/glossary.md`: no refused identifier, and no doc comment that begins
//! with a word that needs its context.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use phase6_tests::root;

fn glossary() -> String {
    std::fs::read_to_string(root().join("docs/glossary.md")).unwrap()
}

/// Returns the identifiers in the last column of the table of terms.
fn refused_identifiers(glossary: &str) -> BTreeSet<String> {
    let (_, terms) = glossary.split_once("\n## Terms\n").unwrap();
    let rows = terms.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Concept"));
    let refused = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
    let names = refused.flat_map(|cell| {
        // A cell with a remark refuses an identifier in one sense only, which a test cannot distinguish; it
        // is skipped.
        cell.split(',').map(str::trim).filter(|part| part.starts_with('`') && part.ends_with('`'))
    });
    names.map(|name| name.trim_matches('`').to_owned()).collect()
}

/// Returns the words that no doc comment begins with.
fn refused_openings(glossary: &str) -> BTreeSet<String> {
    let (_, rest) = glossary.split_once("```text\n").unwrap();
    let (words, _) = rest.split_once("\n```").unwrap();
    words.split_whitespace().map(str::to_owned).collect()
}

/// Returns the words, in lower case, that no identifier contains.
fn refused_parts(glossary: &str) -> BTreeSet<String> {
    let (_, terms) = glossary.split_once("\n## Terms\n").unwrap();
    let (_, rest) = terms.split_once("```text\n").unwrap();
    let (words, _) = rest.split_once("\n```").unwrap();
    words.split_whitespace().map(str::to_lowercase).collect()
}

/// Returns every Rust file that is committed or new.
fn sources() -> Vec<PathBuf> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"];
    let output = Command::new("git").current_dir(root()).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|file| root().join(file)).filter(|file| file.is_file()).collect()
}

/// Returns the code of a line: no comment, no string literal.
fn code(line: &str) -> String {
    let (mut out, mut in_string, mut escaped) = (String::new(), false, false);
    for (index, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '/' if !in_string && line[index..].starts_with("//") => break,
            c if !in_string => out.push(c),
            _ => {}
        }
    }
    out
}

fn identifiers(line: &str) -> Vec<String> {
    code(line).split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect()
}

/// Returns the words of an identifier in lower case: it is split at `_` and before each capital that follows
/// a small letter.
fn parts(identifier: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut previous = '_';
    for c in identifier.chars() {
        if c == '_' || (c.is_uppercase() && previous.is_lowercase()) {
            parts.push(String::new());
        }
        if c != '_' {
            parts.last_mut().unwrap().extend(c.to_lowercase());
        }
        previous = c;
    }
    parts
}

/// Returns the text of a doc comment, or `None` if the line is none.
fn doc(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))?;
    (!text.starts_with('/')).then(|| text.trim_start())
}

#[test]
fn no_identifier_is_refused_by_the_glossary() {
    let (refused, refused_parts) = (refused_identifiers(&glossary()), refused_parts(&glossary()));
    assert!(refused.contains("Pilot") && refused.contains("keep_house"), "{refused:?}");
    assert!(refused_parts.contains("begun"), "{refused_parts:?}");
    let is_refused =
        |name: &String| refused.contains(name) || parts(name).iter().any(|part| refused_parts.contains(part));
    let mut found = Vec::new();
    for file in sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            for name in identifiers(line).into_iter().filter(is_refused) {
                found.push(format!("{}:{}: {name}", file.display(), number + 1));
            }
        }
    }
    assert!(found.is_empty(), "docs/glossary.md has standard terms for these:\n{}", found.join("\n"));
}

#[test]
fn every_doc_comment_is_complete_without_its_context() {
    let refused = refused_openings(&glossary());
    let mut found = Vec::new();
    for file in sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut previous_is_doc = false;
        for (number, line) in text.lines().enumerate() {
            let doc = doc(line);
            let opening = doc.filter(|_| !previous_is_doc).and_then(|text| text.split_whitespace().next());
            if let Some(word) = opening.filter(|word| refused.contains(word.trim_end_matches(','))) {
                found.push(format!("{}:{}: {word} ...", file.display(), number + 1));
            }
            previous_is_doc = doc.is_some();
        }
    }
    assert!(found.is_empty(), "say what the item is or does (docs/glossary.md):\n{}", found.join("\n"));
}

#[test]
fn code_is_read_without_comments_and_strings() {
    assert_eq!(parts("asked_at_ms"), ["asked", "at", "ms"]);
    assert_eq!(parts("BegunStream"), ["begun", "stream"]);
    assert_eq!(parts("ASKED"), ["asked"]);
    assert_eq!(code("let a = \"Pilot // \\\" x\"; // Pilot").trim(), "let a = ;");
    assert_eq!(doc("    /// What it is"), Some("What it is"));
    assert_eq!(doc("    // A comment"), None);
}
