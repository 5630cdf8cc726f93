//! Fenced blocks and tables of the documents.

use std::path::{Path, PathBuf};

use crate::root;

/// A fenced block.
#[derive(Clone, Debug)]
pub struct Block {
    /// The word after the opening fence.
    pub kind: String,
    /// Where it begins: `README.md:12`.
    pub place: String,
    pub lines: Vec<String>,
}

/// A command in a `console` block and what it is said to print.
#[derive(Clone, Debug)]
pub struct Command {
    pub text: String,
    pub place: String,
    pub prints: Vec<String>,
}

/// Every document that people read, relative to the root.
pub fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&root(), &mut found, false);
    collect(&root().join("docs"), &mut found, true);
    let mut relative: Vec<_> =
        found.iter().map(|path| path.strip_prefix(root()).unwrap().to_owned()).collect();
    relative.sort();
    relative
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>, deep: bool) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && deep {
            collect(&path, found, true);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The fenced blocks of a document, in order.
pub fn blocks(document: &Path) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (open.take(), line.strip_prefix("```")) {
            (Some(block), Some(_)) => blocks.push(block),
            (Some(mut block), None) => {
                block.lines.push(line.to_owned());
                open = Some(block);
            }
            (None, Some(kind)) => {
                let place = format!("{}:{}", document.display(), number + 1);
                open = Some(Block { kind: kind.to_owned(), place, lines: vec![] });
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{} ends within a block", document.display());
    blocks
}

impl Block {
    /// The commands of a `console` block.
    pub fn commands(&self) -> Vec<Command> {
        let mut commands: Vec<Command> = Vec::new();
        for line in &self.lines {
            match line.strip_prefix("$ ") {
                Some(text) => {
                    commands.push(Command {
                        text: text.to_owned(),
                        place: self.place.clone(),
                        prints: vec![],
                    });
                }
                None => {
                    let command = commands.last_mut();
                    let command =
                        command.unwrap_or_else(|| panic!("{}: no command before {line:?}", self.place));
                    command.prints.push(line.clone());
                }
            }
        }
        commands
    }
}
