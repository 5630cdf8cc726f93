//! The watched files among all that lie in the same folders.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::FileWatch;

/// Longest chain of links that is followed.
const MAX_LINKS: usize = 8;

/// Files and folders that are watched.
#[derive(Debug, Default)]
pub(super) struct WatchedFiles {
    /// Paths in the form that events have: the folder without links, then the name.
    files: BTreeSet<PathBuf>,
    /// Folders of which every manifest is watched.
    folders: BTreeSet<PathBuf>,
}

impl WatchedFiles {
    /// Finds the given files and folders, and the targets of those that are links.
    pub(super) fn find(paths: &[PathBuf]) -> Self {
        let mut found = Self::default();
        for path in paths {
            if path.is_dir() {
                found.folders.insert(resolve(path));
                for file in manifests_in(path) {
                    found.add(&file);
                }
            } else {
                found.add(path);
            }
        }
        found
    }

    #[cfg(test)]
    pub(super) fn of_file(file: PathBuf) -> Self {
        Self { files: [file].into(), folders: BTreeSet::new() }
    }

    fn add(&mut self, file: &Path) {
        let mut file = file.to_owned();
        for _ in 0..MAX_LINKS {
            let folder = folder_of(&file);
            self.files.insert(folder.join(file.file_name().unwrap_or_default()));
            match std::fs::read_link(&file) {
                Ok(target) => file = folder.join(target),
                Err(_) => break,
            }
        }
    }

    /// Returns every folder with a watched file.
    pub(super) fn all_folders(&self) -> BTreeSet<PathBuf> {
        let parents = self.files.iter().filter_map(|file| file.parent());
        parents.map(Path::to_owned).chain(self.folders.iter().cloned()).collect()
    }

    /// True if `path` is a watched file.
    pub(super) fn contains(&self, path: &Path) -> bool {
        let is_inside = path.parent().is_some_and(|parent| self.folders.contains(parent));
        self.files.contains(path) || (is_inside && FileWatch::is_manifest(path))
    }

    /// True if an event about `paths` may change a watched file.
    pub(super) fn include_any(&self, paths: &[PathBuf]) -> bool {
        // A mounted `ConfigMap` changes by a link of this name.
        let is_mount = |path: &PathBuf| path.file_name().is_some_and(|name| name == "..data");
        paths.iter().any(|path| self.contains(path) || is_mount(path))
    }
}

/// Returns the manifests directly in a folder.
pub(super) fn manifests_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| FileWatch::is_manifest(path)).collect()
}

/// Returns a path without links, as far as it exists.
pub(super) fn resolve(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the folder of a file, without links.
fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => resolve(parent),
        _ => resolve(Path::new(".")),
    }
}
