//! Files and folders of `Phase6Service` manifests.

use std::path::{Path, PathBuf};

use phase6_manifest::{Manifest, ManifestError, duplicates, read};

use crate::watch::FileWatch;

/// Reads every manifest of the given files, and of the YAML files directly in the given folders.
///
/// # Errors
///
/// Every error of every file. A file that cannot be read is one. Files without any manifest are one too:
/// an empty fleet is more likely a file that is being written at this moment.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Manifest>, Vec<ManifestError>> {
    let mut manifests: Vec<Manifest> = Vec::new();
    let mut errors = Vec::new();
    for path in paths {
        let files = match files_of(path) {
            Ok(files) => files,
            Err(error) => {
                errors.push(file_error(path, format!("cannot be read: {error}")));
                continue;
            }
        };
        for file in files {
            match std::fs::read(&file).map(String::from_utf8) {
                Ok(Ok(text)) => match read(&file.display().to_string(), &text) {
                    Ok(found) => manifests.extend(found),
                    Err(found) => errors.extend(found),
                },
                Ok(Err(_)) => errors.push(file_error(&file, "is not UTF-8 text".into())),
                Err(error) => errors.push(file_error(&file, format!("cannot be read: {error}"))),
            }
        }
    }
    if errors.is_empty() {
        errors = duplicates(&manifests);
    }
    if errors.is_empty() && manifests.is_empty() {
        let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        errors.push(file_error(Path::new(&names.join(", ")), "has no Phase6Service document".into()));
    }
    if errors.is_empty() { Ok(manifests) } else { Err(errors) }
}

/// Returns the file itself, or the YAML files directly in a folder, ordered by name.
fn files_of(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        if FileWatch::is_manifest(&file) && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn file_error(path: &Path, message: String) -> ManifestError {
    ManifestError { file: path.display().to_string(), line: None, document: None, field: None, message }
}

/// Formats errors, one per line.
pub fn lines(errors: &[ManifestError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
