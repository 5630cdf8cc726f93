//! `cargo xtask image`: the images, built without Docker.
//!
//! The image of the product contains both programs, the libraries that they load and the certificate authorities
//! that they trust: no shell, no package manager. `Dockerfile` builds the same image with Docker. The images of
//! Redis and PostgreSQL for tests are made of Debian's files.

use std::path::{Path, PathBuf};

use crate::{
    oci::{Archive, Image},
    run::{cargo, find, root, succeed},
    servers::{install, postgres_folder, provide},
};

/// Id of the unprivileged user and group, the usual one in images of this kind.
const NOBODY: u32 = 65532;
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Builds the image of the product, and prints its path, name, digest and size.
pub(crate) fn run() -> Result<(), String> {
    build()?;
    let image = phase6()?;
    let size = image.path.metadata().map_err(|error| error.to_string())?.len();
    println!("{}", image.path.display());
    println!("{}\n{}\n{:.1} MB", image.reference, image.digest, size as f64 / 1e6);
    Ok(())
}

/// Makes the release build: the programs of the images, and the program whose instructions are counted. It is one
/// build of the whole workspace, so that each library has one set of features and is built once.
pub(crate) fn build() -> Result<(), String> {
    let mut build = cargo(&["build", "--release", "--locked", "--quiet", "--workspace"]);
    build.args(["--features", "phase6-cli/cluster"]);
    for program in ["phase6", "phase6-operator", "load", "instructions"] {
        build.args(["--bin", program]);
    }
    succeed(&mut build)
}

/// Returns the path of a program of the release build.
pub(crate) fn built(program: &str) -> PathBuf {
    root().join("target/release").join(program)
}

/// Makes the image of the product from the release build.
pub(crate) fn phase6() -> Result<Archive, String> {
    phase6_as("localhost/phase6/phase6:dev-{digest}", "phase6")
}

/// Makes the image of the product under another tag: the next release, for tests of upgrades.
pub(crate) fn next() -> Result<Archive, String> {
    phase6_as("localhost/phase6/phase6:next-{digest}", "next")
}

fn phase6_as(reference: &str, file: &str) -> Result<Archive, String> {
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

/// Makes the image of the load generator from the release build.
pub(crate) fn load() -> Result<Archive, String> {
    let image = named("localhost/phase6-test/load:{digest}", NOBODY)
        .program("/usr/bin/load", &built("load"))?
        .file(AUTHORITIES, Path::new(AUTHORITIES))?;
    write(&image, "load")
}

/// Makes the image of Redis.
pub(crate) fn redis() -> Result<Archive, String> {
    provide("redis-server", "redis-server")?;
    let server = find("redis-server").ok_or("redis-server is installed but not found")?;
    let image = named("localhost/phase6-test/redis:1", NOBODY)
        .entrypoint(&["/usr/bin/redis-server"])
        .program("/usr/bin/redis-server", &server)?;
    write(&image, "redis")
}

/// Makes the image of PostgreSQL, which accepts the settings that the chart passes to the official image.
pub(crate) fn postgres() -> Result<Archive, String> {
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
    // The server reads its time zone from this file.
    image = image.file("/usr/share/zoneinfo/UTC", Path::new("/usr/share/zoneinfo/UTC"))?;
    for applet in ["sh", "rm"] {
        image = image.link(&format!("/bin/{applet}"), "busybox");
    }
    for name in ["postgres", "initdb"] {
        image = image.program(&bin.join(name).to_string_lossy(), &bin.join(name))?;
    }
    // Libraries that the server loads at run time; all others belong to extensions.
    for library in ["plpgsql.so", "dict_snowball.so"] {
        let library = version.join("lib").join(library);
        image = image.program(&library.to_string_lossy(), &library)?;
    }
    write(&image, "postgres")
}

/// Returns an image with one user and name resolution by files and DNS.
fn named(reference: &str, user: u32) -> Image {
    Image::new(reference)
        .user(user)
        .text("/etc/passwd", &format!("root:x:0:0::/:/none\nphase6:x:{user}:{user}::/:/none\n"))
        .text("/etc/group", &format!("root:x:0:\nphase6:x:{user}:\n"))
        .text("/etc/nsswitch.conf", "hosts: files dns\n")
        .folder("/tmp", 0o1777, 0)
}

fn write(image: &Image, name: &str) -> Result<Archive, String> {
    let folder = root().join("target/images");
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("failed to create {}: {error}", folder.display()))?;
    image.write(&folder.join(format!("{name}.tar")))
}
