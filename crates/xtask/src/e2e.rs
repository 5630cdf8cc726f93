//! `cargo xtask e2e`: the product on a real cluster.

use std::{path::PathBuf, process::Command};

use crate::{
    cluster::Cluster,
    image,
    run::{cargo, succeed},
};

/// The images of a test cluster, made and known to its nodes: the product's, and by what variable the
/// suite is told of each.
pub(crate) fn load_images(cluster: &Cluster) -> Result<Vec<(&'static str, String)>, String> {
    image::build()?;
    let images = [
        ("PHASE6_E2E_IMAGE", image::phase6()?),
        ("PHASE6_E2E_NEXT", image::next()?),
        ("PHASE6_E2E_REDIS", image::redis()?),
        ("PHASE6_E2E_POSTGRES", image::postgres()?),
        ("PHASE6_E2E_LOAD", image::load()?),
    ];
    for (_, image) in &images {
        cluster.load_image(&image.archive)?;
    }
    Ok(images.into_iter().map(|(variable, image)| (variable, image.reference)).collect())
}

/// Runs the suite with this machine's cluster, which is started if need be and left running.
pub(crate) fn run(filters: &[&str]) -> Result<(), String> {
    succeed(&mut prepared(&Cluster::of_this_machine(), filters)?)
}

/// Runs the suite at its full count, which takes longer than CI may.
pub(crate) fn prove() -> Result<(), String> {
    succeed(prepared(&Cluster::of_this_machine(), &[])?.env("PHASE6_E2E_FULL", "1"))
}

/// The suite with everything that it needs, ready to be started.
pub(crate) fn prepared(cluster: &Cluster, filters: &[&str]) -> Result<Command, String> {
    cluster.up()?;
    let images = load_images(cluster)?;
    // Built outside, where the registry can be reached.
    succeed(&mut suite(&["--no-run"]))?;
    let this = this_program()?;
    let inner = suite(&[]);
    let mut command = cluster.command(&inner.get_program().to_string_lossy())?;
    command.args(inner.get_args()).arg("--").args(filters);
    command
        .envs(images)
        .env("PHASE6_E2E", "1")
        .env("PHASE6_E2E_CONTROL", this)
        .env("PHASE6_E2E_OPERATOR", image::built("phase6-operator"))
        .env("CARGO_NET_OFFLINE", "true");
    Ok(command)
}

/// This program. Where building the tests has replaced it by a newer one, Linux says so in its path.
fn this_program() -> Result<PathBuf, String> {
    let path =
        std::env::current_exe().map_err(|error| format!("cannot tell where this program is: {error}"))?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

/// Runs the suite with another cluster. Its images must be where that cluster finds them, and
/// `PHASE6_E2E_CONTROL` may name a program that stops its parts.
pub(crate) fn run_with(kubeconfig: &str, filters: &[&str]) -> Result<(), String> {
    image::build()?;
    let mut command = suite(&[]);
    command.arg("--").args(filters).env("PHASE6_E2E_OPERATOR", image::built("phase6-operator"));
    succeed(command.env("KUBECONFIG", kubeconfig).env("PHASE6_E2E", "1"))
}

fn suite(more: &[&str]) -> Command {
    let mut command = cargo(&["test", "--quiet", "--locked", "--workspace", "--test", "e2e"]);
    command.args(more);
    command
}
