//! Files and folders of `Phase6Service` documents.

use std::path::{Path, PathBuf};

use phase6_chassis::FileWatch;
use phase6_crds::{Document, Fault, doubles, read};

/// Reads every document of the given files, and of the YAML files directly in the given folders.
///
/// # Errors
///
/// All faults of all files. A file that cannot be read is one, and so is it when there is no
/// document at all: a fleet of nothing is more likely a file that is just being written.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Vec<Document>, Vec<Fault>> {
    let mut documents: Vec<Document> = Vec::new();
    let mut faults = Vec::new();
    for path in paths {
        let files = match listed(path) {
            Ok(files) => files,
            Err(error) => {
                faults.push(fault(path, format!("cannot be read: {error}")));
                continue;
            }
        };
        for file in files {
            match std::fs::read(&file).map(String::from_utf8) {
                Ok(Ok(text)) => match read(&file.display().to_string(), &text) {
                    Ok(found) => documents.extend(found),
                    Err(found) => faults.extend(found),
                },
                Ok(Err(_)) => faults.push(fault(&file, "is not UTF-8 text".into())),
                Err(error) => faults.push(fault(&file, format!("cannot be read: {error}"))),
            }
        }
    }
    if faults.is_empty() {
        faults = doubles(&documents);
    }
    if faults.is_empty() && documents.is_empty() {
        let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        faults.push(fault(Path::new(&names.join(", ")), "holds no Phase6Service document".into()));
    }
    if faults.is_empty() { Ok(documents) } else { Err(faults) }
}

/// The file itself, or the YAML files directly in a folder, in the order of their names.
fn listed(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if FileWatch::is_document(&file) && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn fault(path: &Path, complaint: String) -> Fault {
    Fault { file: path.display().to_string(), line: None, document: None, field: None, complaint }
}

/// All faults, one a line.
pub(crate) fn lines(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
