//! `cargo xtask image`: the images, made without Docker.
//!
//! The product's image holds both programs, the libraries that they load and the authorities that
//! they trust: no shell, no package manager. `Dockerfile` makes the same for people with Docker. Redis
//! and PostgreSQL for tests are made from Debian's files.

use std::path::{Path, PathBuf};

use crate::{
    oci::{Image, Written},
    run::{cargo, find, root, succeed},
    servers::{install, postgres_folder, provide},
};

/// Nobody's user and group, as in other images of this kind.
const NOBODY: u32 = 65532;
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Builds the product's image and says where it is.
pub(crate) fn run() -> Result<(), String> {
    build()?;
    let written = phase6()?;
    let size = written.archive.metadata().map_err(|error| error.to_string())?.len();
    println!("{}", written.archive.display());
    println!("{}\n{}\n{:.1} MB", written.reference, written.digest, size as f64 / 1e6);
    Ok(())
}

/// Makes the release build: the programs of the images, and the program whose instructions are counted. One
/// build of the whole workspace, so that libraries have one set of features and are built once.
pub(crate) fn build() -> Result<(), String> {
    let mut build = cargo(&["build", "--release", "--locked", "--quiet", "--workspace"]);
    build.args(["--features", "phase6-cli/cluster"]);
    for program in ["phase6", "phase6-operator", "load", "instructions"] {
        build.args(["--bin", program]);
    }
    succeed(&mut build)
}

/// Where a program is that was built.
pub(crate) fn built(program: &str) -> PathBuf {
    root().join("target/release").join(program)
}

/// The product's image, of what is built.
pub(crate) fn phase6() -> Result<Written, String> {
    phase6_as("localhost/phase6/phase6:dev-{digest}", "phase6")
}

/// The same under another tag: a release to upgrade to.
pub(crate) fn next() -> Result<Written, String> {
    phase6_as("localhost/phase6/phase6:next-{digest}", "next")
}

fn phase6_as(reference: &str, file: &str) -> Result<Written, String> {
    if !Path::new(AUTHORITIES).is_file() {
        install("ca-certificates")?;
    }
    let image = named(reference, NOBODY)
        .entrypoint(&["/usr/bin/phase6"])
        .program("/usr/bin/phase6", &built("phase6"))?
        .program("/usr/bin/phase6-operator", &built("phase6-operator"))?
        .file(AUTHORITIES, Path::new(AUTHORITIES))?;
    write(&image, file)
}

/// What makes load in tests, of what is built.
pub(crate) fn load() -> Result<Written, String> {
    let image = named("localhost/phase6-test/load:{digest}", NOBODY)
        .program("/usr/bin/load", &built("load"))?
        .file(AUTHORITIES, Path::new(AUTHORITIES))?;
    write(&image, "load")
}

/// A Redis for tests.
pub(crate) fn redis() -> Result<Written, String> {
    provide("redis-server", "redis-server")?;
    let server = find("redis-server").ok_or("redis-server is installed but not found")?;
    let image = named("localhost/phase6-test/redis:1", NOBODY)
        .entrypoint(&["/usr/bin/redis-server"])
        .program("/usr/bin/redis-server", &server)?;
    write(&image, "redis")
}

/// A PostgreSQL for tests, which understands what the chart tells the official image.
pub(crate) fn postgres() -> Result<Written, String> {
    if postgres_folder().is_none() {
        install("postgresql")?;
    }
    provide("busybox", "busybox-static")?;
    let bin = postgres_folder().ok_or("PostgreSQL is installed but its programs are not found")?;
    let version = bin.parent().ok_or("PostgreSQL's programs are in no folder")?;
    let number = version.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let shared = format!("/usr/share/postgresql/{number}");
    let busybox = find("busybox").ok_or("busybox is installed but not found")?;
    let mut image = named("localhost/phase6-test/postgres:1", 999)
        .entrypoint(&["/bin/sh", "/start.sh"])
        .file("/bin/busybox", &busybox)?
        .file("/start.sh", &root().join("tests/cluster/images/postgres.sh"))?
        .link("/usr/lib/postgresql/bin", &bin.to_string_lossy())
        .tree(&shared, Path::new(&shared))?;
    // The server knows times of day by their zone's file.
    image = image.file("/usr/share/zoneinfo/UTC", Path::new("/usr/share/zoneinfo/UTC"))?;
    for applet in ["sh", "rm"] {
        image = image.link(&format!("/bin/{applet}"), "busybox");
    }
    for name in ["postgres", "initdb"] {
        image = image.program(&bin.join(name).to_string_lossy(), &bin.join(name))?;
    }
    // What the server loads while it runs; the rest is extensions.
    for library in ["plpgsql.so", "dict_snowball.so"] {
        let library = version.join("lib").join(library);
        image = image.program(&library.to_string_lossy(), &library)?;
    }
    write(&image, "postgres")
}

/// An image with one user, who is told names by files and by DNS.
fn named(reference: &str, user: u32) -> Image {
    Image::new(reference)
        .user(user)
        .text("/etc/passwd", &format!("root:x:0:0::/:/none\nphase6:x:{user}:{user}::/:/none\n"))
        .text("/etc/group", &format!("root:x:0:\nphase6:x:{user}:\n"))
        .text("/etc/nsswitch.conf", "hosts: files dns\n")
        .folder("/tmp", 0o1777, 0)
}

fn write(image: &Image, name: &str) -> Result<Written, String> {
    let folder = root().join("target/images");
    std::fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    image.write(&folder.join(format!("{name}.tar")))
}
