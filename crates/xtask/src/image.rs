//! `cargo xtask image`: the images, made without Docker.
//!
//! The product's image holds both programs, the libraries that they load and the authorities that
//! they trust: no shell, no package manager. `Dockerfile` makes the same for people with Docker. Redis
//! and PostgreSQL for tests are made from Debian's files.

use std::path::{Path, PathBuf};

use crate::{
    oci::Image,
    run::{cargo, find, root, succeed},
    servers::{install, postgres_folder, provide},
};

/// What the chart and the tests call the product's image.
pub(crate) const PHASE6: &str = "localhost/phase6/phase6:dev";
/// Nobody's user and group, as in other images of this kind.
const NOBODY: u32 = 65532;
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Builds the product's image and says where it is.
pub(crate) fn run() -> Result<(), String> {
    let (archive, digest) = phase6()?;
    let size = archive.metadata().map_err(|error| error.to_string())?.len();
    println!("{}\n{PHASE6}\n{digest}\n{:.1} MB", archive.display(), size as f64 / 1e6);
    Ok(())
}

/// The product's image and its digest.
pub(crate) fn phase6() -> Result<(PathBuf, String), String> {
    let packages = ["--package", "phase6-cli", "--package", "phase6-operator"];
    succeed(cargo(&["build", "--release", "--locked", "--quiet"]).args(packages))?;
    if !Path::new(AUTHORITIES).is_file() {
        install("ca-certificates")?;
    }
    let built = root().join("target/release");
    let image = named(PHASE6, NOBODY)
        .entrypoint(&["/usr/bin/phase6"])
        .program("/usr/bin/phase6", &built.join("phase6"))?
        .program("/usr/bin/phase6-operator", &built.join("phase6-operator"))?
        .file(AUTHORITIES, Path::new(AUTHORITIES))?;
    write(&image, "phase6")
}

/// What makes load in tests.
pub(crate) fn load() -> Result<PathBuf, String> {
    succeed(&mut cargo(&["build", "--release", "--locked", "--quiet", "--package", "phase6-tests", "--bin", "load"]))?;
    let image = named("localhost/phase6-test/load:1", NOBODY)
        .program("/usr/bin/load", &root().join("target/release/load"))?;
    Ok(write(&image, "load")?.0)
}

/// A Redis for tests.
pub(crate) fn redis() -> Result<PathBuf, String> {
    provide("redis-server", "redis-server")?;
    let server = find("redis-server").ok_or("redis-server is installed but not found")?;
    let image = named("localhost/phase6-test/redis:1", NOBODY)
        .entrypoint(&["/usr/bin/redis-server"])
        .program("/usr/bin/redis-server", &server)?;
    Ok(write(&image, "redis")?.0)
}

/// A PostgreSQL for tests, which understands what the chart tells the official image.
pub(crate) fn postgres() -> Result<PathBuf, String> {
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
    Ok(write(&image, "postgres")?.0)
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

fn write(image: &Image, name: &str) -> Result<(PathBuf, String), String> {
    let folder = root().join("target/images");
    std::fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let archive = folder.join(format!("{name}.tar"));
    let digest = image.write(&archive)?;
    Ok((archive, digest))
}
