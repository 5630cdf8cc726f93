//! OCI image archives, written without a container engine.
//!
//! An archive contains one image for Linux on the architecture of this machine, with one layer. It depends on
//! its content alone: entries are sorted, and owners and times are fixed, so that two builds have the same
//! digest. `ctr images import` and `kind load image-archive` read it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// An entry of the layer.
enum Entry {
    Folder {
        mode: u32,
        owner: u64,
    },
    /// A copy of a file on this machine.
    File {
        from: PathBuf,
        mode: u32,
    },
    Text(String),
    Link(String),
}

/// An image before it is written.
pub(crate) struct Image {
    /// `localhost/NAME:TAG`; `{digest}` in it stands for the first 12 digits of the digest.
    reference: String,
    entries: BTreeMap<String, Entry>,
    config: Value,
}

impl Image {
    /// Returns an empty image.
    pub(crate) fn new(reference: &str) -> Self {
        Self { reference: reference.into(), entries: BTreeMap::new(), config: json!({}) }
    }

    /// Sets the default command.
    pub(crate) fn entrypoint(self, program: &[&str]) -> Self {
        self.set("Entrypoint", json!(program))
    }

    /// Sets the numeric id of the user and the group.
    pub(crate) fn user(self, id: u32) -> Self {
        self.set("User", json!(format!("{id}:{id}")))
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Adds a folder.
    pub(crate) fn folder(mut self, path: &str, mode: u32, owner: u64) -> Self {
        self.insert(path, Entry::Folder { mode, owner });
        self
    }

    /// Adds a file with this text.
    pub(crate) fn text(mut self, path: &str, text: &str) -> Self {
        self.insert(path, Entry::Text(text.into()));
        self
    }

    /// Adds a symbolic link.
    pub(crate) fn link(mut self, path: &str, target: &str) -> Self {
        self.insert(path, Entry::Link(target.into()));
        self
    }

    /// Adds a copy of a file. Symbolic links are followed.
    pub(crate) fn file(mut self, path: &str, from: &Path) -> Result<Self, String> {
        use std::os::unix::fs::PermissionsExt;
        let describe = |error| format!("failed to read {}: {error}", from.display());
        let real = from.canonicalize().map_err(describe)?;
        let executable = real.metadata().map_err(describe)?.permissions().mode() & 0o111 != 0;
        self.insert(path, Entry::File { from: real, mode: if executable { 0o755 } else { 0o644 } });
        Ok(self)
    }

    /// Adds a copy of a program, and of the libraries that it loads, at their own paths.
    pub(crate) fn program(mut self, path: &str, from: &Path) -> Result<Self, String> {
        self = self.file(path, from)?;
        for library in libraries(from)? {
            self = self.file(&library.to_string_lossy(), &library)?;
        }
        Ok(self)
    }

    /// Adds copies of all files in a folder and its subfolders.
    pub(crate) fn tree(mut self, path: &str, from: &Path) -> Result<Self, String> {
        let describe = |error| format!("failed to read {}: {error}", from.display());
        for found in std::fs::read_dir(from).map_err(describe)? {
            let found = found.map_err(describe)?;
            let inside = format!("{path}/{}", found.file_name().to_string_lossy());
            let is_folder = found.path().metadata().map_err(describe)?.is_dir();
            self = if is_folder {
                self.tree(&inside, &found.path())?
            } else {
                self.file(&inside, &found.path())?
            };
        }
        Ok(self)
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/').to_owned();
        for parent in Path::new(&path).ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            let parent = parent.to_string_lossy().into_owned();
            self.entries.entry(parent).or_insert(Entry::Folder { mode: 0o755, owner: 0 });
        }
        self.entries.insert(path, entry);
    }

    /// Writes the archive.
    pub(crate) fn write(&self, archive: &Path) -> Result<Archive, String> {
        let describe = |error: std::io::Error| format!("failed to write {}: {error}", archive.display());
        let layer = self.layer().map_err(describe)?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer.plain)] },
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer.compressed)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        let digest = digest(&manifest);
        let reference = self.reference.replace("{digest}", &digest["sha256:".len()..][..12]);
        let (_, tag) = reference.rsplit_once(':').ok_or("the name of an image needs a tag")?;
        listed["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [listed],
        });
        let blob = |content: &[u8]| format!("blobs/sha256/{}", hex(content));
        let files: BTreeMap<String, Vec<u8>> = [
            (blob(&layer.compressed), layer.compressed),
            (blob(&config), config),
            (blob(&manifest), manifest),
            ("index.json".to_owned(), index.to_string().into_bytes()),
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ]
        .into();
        // Archive under another name first, so that readers never see an incomplete archive.
        let incomplete = archive.with_extension("incomplete");
        let mut out = tar::Builder::new(BufWriter::new(File::create(&incomplete).map_err(describe)?));
        for (path, content) in files {
            append(&mut out, &path, 0o644, &content).map_err(describe)?;
        }
        out.into_inner().and_then(|mut file| file.flush()).map_err(describe)?;
        std::fs::rename(&incomplete, archive).map_err(describe)?;
        Ok(Archive { path: archive.to_owned(), reference, digest })
    }

    fn layer(&self) -> std::io::Result<Layer> {
        let mut out = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::Folder { mode, owner } => {
                    let mut header = header(EntryType::Directory, *mode, 0);
                    header.set_uid(*owner);
                    header.set_gid(*owner);
                    out.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File { from, mode } => append(&mut out, path, *mode, &std::fs::read(from)?)?,
                Entry::Text(text) => append(&mut out, path, 0o644, text.as_bytes())?,
                Entry::Link(target) => {
                    out.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)?;
                }
            }
        }
        let plain = out.into_inner()?;
        let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
        encoder.write_all(&plain)?;
        Ok(Layer { compressed: encoder.finish()?, plain })
    }
}

/// A written archive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Archive {
    pub(crate) path: PathBuf,
    /// Name of the image after it is loaded.
    pub(crate) reference: String,
    /// Digest of the image.
    pub(crate) digest: String,
}

struct Layer {
    plain: Vec<u8>,
    compressed: Vec<u8>,
}

fn append(
    out: &mut tar::Builder<impl std::io::Write>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    out.append_data(&mut header(EntryType::Regular, mode, content.len() as u64), path, content)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex(content))
}

/// Returns the SHA-256 digest in hexadecimal.
pub(crate) fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the architecture of this machine by its name in OCI.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Returns the libraries that a program loads, including the loader; a static program has none.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let output = std::process::Command::new("ldd").arg(program).output();
    let output = output.map_err(|error| format!("failed to start ldd: {error}"))?;
    // "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)" and "\t/lib64/ld-linux-x86-64.so.2 (0x...)"
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_gives_identical_archives() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str| {
            let image = Image::new("localhost/example:{digest}")
                .user(65532)
                .entrypoint(&["/bin/example"])
                .text("/etc/passwd", "nobody:x:65532:65532::/:/none\n")
                .folder("/data", 0o700, 65532)
                .link("/bin/sh", "/bin/example");
            let archive = folder.path().join(name);
            let written = image.write(&archive).expect("an archive");
            (written.digest, written.reference, std::fs::read(archive).expect("written"))
        };
        let (first, second) = (write("a.tar"), write("b.tar"));
        let (digest, reference, _) = &first;
        assert_eq!(*reference, format!("localhost/example:{}", &digest["sha256:".len()..][..12]));
        assert_eq!(first, second);
    }

    #[test]
    fn the_libraries_of_a_program_are_found() {
        let found = libraries(Path::new("/bin/sh")).expect("ldd");
        assert!(found.iter().any(|path| path.to_string_lossy().contains("libc.so")), "{found:?}");
    }
}
