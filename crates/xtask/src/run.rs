//! Runs other programs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::oci;

/// Returns the root folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate is two folders below the root").to_owned()
}

/// Returns a command of cargo that runs in the root folder of the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    // Build scripts would take the variables of this package for a change of their environment, and half of all
    // crates would be built again whenever cargo is called with and without them in turn.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name == "CARGO_MANIFEST_DIR" || name.starts_with("CARGO_PKG_")) {
            command.env_remove(name);
        }
    }
    command.env_remove("CARGO_MANIFEST_PATH");
    command
}

/// Runs a program to its end. Fails if it cannot be started or does not exit with success.
pub(crate) fn succeed(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} exited with {status}")),
        Err(error) => Err(format!("failed to start {name}: {error}")),
    }
}

/// Returns a fingerprint of files in a folder: the SHA-256 digest of their contents in hexadecimal.
pub(crate) fn fingerprint(folder: &Path, files: &[&str]) -> Result<String, String> {
    let mut contents = Vec::new();
    for file in files {
        let path = folder.join(file);
        contents.extend(std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    Ok(oci::hex(&contents))
}

/// True if this process runs as root.
pub(crate) fn is_root() -> bool {
    // The owner of /proc/self is the user of this process.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Returns the path of a program in the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Returns the path of this program. Linux marks the path of a program that a build has replaced.
pub(crate) fn this_program() -> Result<PathBuf, String> {
    let path =
        std::env::current_exe().map_err(|error| format!("the path of this program is unknown: {error}"))?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}
