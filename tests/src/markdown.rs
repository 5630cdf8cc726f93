//! Fenced blocks of the documents, and the commands in them.

use std::path::{Path, PathBuf};

use crate::root;

/// A fenced block.
#[derive(Clone, Debug)]
pub struct Block {
    /// The word after the opening fence.
    pub language: String,
    /// File and line of the opening fence: `README.md:12`.
    pub location: String,
    pub lines: Vec<String>,
}

/// A command of a `console` block and the output that the document shows below it.
#[derive(Clone, Debug)]
pub struct Command {
    pub text: String,
    pub location: String,
    pub expected_output: Vec<String>,
}

/// Returns every document that people read, relative to the root folder.
pub fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(&root(), &mut found, false);
    collect(&root().join("docs"), &mut found, true);
    let mut relative: Vec<_> =
        found.iter().map(|path| path.strip_prefix(root()).unwrap().to_owned()).collect();
    relative.sort();
    relative
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>, recursive: bool) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && recursive {
            collect(&path, found, true);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// Returns the fenced blocks of a document, in order.
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
            (None, Some(language)) => {
                let location = format!("{}:{}", document.display(), number + 1);
                open = Some(Block { language: language.to_owned(), location, lines: vec![] });
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{} ends within a block", document.display());
    blocks
}

impl Block {
    /// Returns the commands of a `console` block.
    pub fn commands(&self) -> Vec<Command> {
        let mut commands: Vec<Command> = Vec::new();
        for line in &self.lines {
            if let Some(text) = line.strip_prefix("$ ") {
                let (text, location) = (text.to_owned(), self.location.clone());
                commands.push(Command { text, location, expected_output: vec![] });
            } else {
                let command = commands.last_mut();
                let command =
                    command.unwrap_or_else(|| panic!("{}: no command before {line:?}", self.location));
                command.expected_output.push(line.clone());
            }
        }
        commands
    }
}
