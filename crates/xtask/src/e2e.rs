//! `cargo xtask e2e`: the product on a real cluster.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::{
    cluster::Cluster,
    image,
    run::{cargo, succeed, this_program},
};

/// Output of the suite.
pub(crate) struct Output {
    pub(crate) text: String,
    pub(crate) success: bool,
}

/// Makes the images of a test cluster and loads them into its nodes. Returns the references of the images by
/// the variables that name them to the suite.
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
        cluster.load_image(&image.path)?;
    }
    Ok(images.into_iter().map(|(variable, image)| (variable, image.reference)).collect())
}

/// Runs the suite on the cluster of this machine, which is started unless it is running, and left running.
pub(crate) fn run(filters: &[&str]) -> Result<(), String> {
    succeed(&mut prepare(&Cluster::of_this_machine(), filters)?)
}

/// Runs the suite at its full count, which takes longer than CI allows.
pub(crate) fn prove() -> Result<(), String> {
    succeed(prepare(&Cluster::of_this_machine(), &[])?.env("PHASE6_E2E_FULL", "1"))
}

/// Runs the suite, prints its output as it comes, and returns it.
pub(crate) fn run_all(cluster: &Cluster) -> Result<Output, String> {
    let mut suite = prepare(cluster, &[])?;
    let mut process = suite
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("failed to start the suite: {error}"))?;
    let stdout = process.stdout.take().ok_or("the suite has no output")?;
    let mut text = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|error| format!("failed to read the output of the suite: {error}"))?;
        println!("{line}");
        text += &line;
        text.push('\n');
    }
    let status = process.wait().map_err(|error| format!("failed to wait for the suite: {error}"))?;
    Ok(Output { text, success: status.success() })
}

/// Starts the cluster, loads the images, and returns the command of the suite.
fn prepare(cluster: &Cluster, filters: &[&str]) -> Result<Command, String> {
    cluster.up()?;
    let images = load_images(cluster)?;
    // Built here, because the network of the cluster has no route to a registry.
    succeed(&mut suite(&["--no-run"]))?;
    let inner = suite(&[]);
    let mut command = cluster.command(&inner.get_program().to_string_lossy())?;
    command.args(inner.get_args()).arg("--").args(filters);
    // With another environment, build scripts would run again, and with them half of the build.
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .envs(images)
        .env("PHASE6_E2E", "1")
        .env("PHASE6_E2E_CONTROL", this_program()?)
        .env("PHASE6_E2E_OPERATOR", image::built("phase6-operator"))
        .env("CARGO_NET_OFFLINE", "true");
    Ok(command)
}

/// Runs the suite on another cluster. Its images must be where that cluster finds them, and
/// `PHASE6_E2E_CONTROL` may name a program that stops its components.
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
