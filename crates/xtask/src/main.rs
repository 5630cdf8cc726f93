//! What developers run: `cargo xtask COMMAND`.
//!
//! * `test`: everything, with the servers that tests need.
//! * `bench`: every benchmark; writes the table in `docs/performance.md`. `bench --smoke` only shows
//!   that they run.
//! * `cluster`: a real Kubernetes to test on.
//! * `e2e`, `prove`: the product on that cluster.
//! * `chaos`: services under load while all kinds of things happen to their Redis.
//! * `simulate`: limits, breakers and flights in many worlds and the cache through many sequences, each of which a seed gives
//!   again.
//! * `fuzz`: what reads strangers' bytes, under any bytes.
//! * `instructions`: what a call of each core costs, held against what was accepted.
//! * `mutants`: the cores, changed in one place at a time, held against their tests.
//! * `demo`: a fleet on it, to play with.
//! * `image`: the product's image, without Docker.
//! * `crd`: writes the generated files anew: the definition of the custom resource, and the reference pages.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod bench;
mod chaos;
mod cluster;
mod collector;
mod demo;
mod e2e;
mod fuzz;
mod image;
mod instructions;
mod mutants;
mod oci;
mod run;
mod servers;
mod simulate;
mod test;

use std::process::{ExitCode, Stdio};

const USAGE: &str = "usage: cargo xtask COMMAND

  test [--without-cluster]
         run every test, with PostgreSQL and Redis servers and a Kubernetes of its own
  demo   from nothing to a fleet on a cluster to play with
  bench  measure, and write the table in docs/performance.md; --smoke: only see that it runs
  cluster COMMAND
         a Kubernetes to test on; without COMMAND, what it can do
  e2e [--kubeconfig FILE] [NAME...]
         the product on a real cluster: this machine's, or another one
  prove  the same at its full count, which takes longer
  chaos [--rounds N]
         services under load while their Redis is killed, frozen, emptied, slow...; 50 rounds of each
  simulate [limits|breaker|flights|cache] [--seeds N] [--from SEED]
         limits in many worlds: replicas that start, die and are cut off, a network that loses, clocks that
         step; 10,000 worlds. A breaker in many more, under callers whose answers come late or never, edits
         and a clock that jumps, held against its model; 100,000. Replicas that want one answer, which is
         made once; 10,000. The cache through many sequences of requests, each answer held against a model
         of RFC 9111; 1,000,000 sequences. What breaks a rule is printed with its seed, and --seeds 1 with
         the part's name replays it
  fuzz [--seconds N] [TARGET...]
         what reads strangers' bytes, under any bytes; 60 seconds each. An input that fails is named
  instructions [--accept]
         count what a call of each core costs; more than was accepted fails
  mutants [FILE...]
         change the cores, or these files of them, in one place at a time: tests have to notice
  image  make the product's image as an archive, without Docker
  crd    write the generated files: the definition of the resource, and the reference pages
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => test::run(test::Extent::Whole),
        ["test", "--without-cluster"] => test::run(test::Extent::WithoutCluster),
        ["bench"] => bench::run(bench::Effort::Measure),
        ["bench", "--smoke"] => bench::run(bench::Effort::Smoke),
        ["cluster", ..] => cluster::run(&arguments[1..]),
        ["e2e", "--kubeconfig", file, filters @ ..] => e2e::run_with(file, filters),
        ["e2e", filters @ ..] => e2e::run(filters),
        ["prove"] => e2e::prove(),
        ["chaos"] => chaos::run(chaos::ROUNDS),
        ["chaos", "--rounds", rounds] => match rounds.parse() {
            Ok(rounds) => chaos::run(rounds),
            Err(_) => Err(format!("--rounds {rounds}: accepted is a whole number")),
        },
        ["simulate", "limits", options @ ..] => seeds(options).and_then(simulate::limits),
        ["simulate", "breaker", options @ ..] => seeds(options).and_then(simulate::breaker),
        ["simulate", "flights", options @ ..] => seeds(options).and_then(simulate::flights),
        ["simulate", "cache", options @ ..] => seeds(options).and_then(simulate::cache),
        ["simulate", options @ ..] => seeds(options).and_then(|seeds| {
            simulate::limits(seeds)?;
            simulate::breaker(seeds)?;
            simulate::flights(seeds)?;
            simulate::cache(seeds)
        }),
        ["fuzz", options @ ..] => fuzz::run(options),
        ["instructions"] => instructions::run(instructions::Purpose::Judge),
        ["instructions", "--accept"] => instructions::run(instructions::Purpose::Accept),
        ["mutants", files @ ..] => mutants::run(files),
        ["demo"] => demo::run(),
        ["image"] => image::run(),
        ["crd"] => crd(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(1)
        }
    }
}

fn seeds(options: &[&str]) -> Result<simulate::Seeds, String> {
    let mut seeds = simulate::Seeds::default();
    for option in options.chunks(2) {
        let number = |number: &str| {
            number.parse().map_err(|_| format!("{}: accepted is a whole number", option.join(" ")))
        };
        match option {
            ["--from", from] => seeds.from = number(from)?,
            ["--seeds", count] => seeds.count = Some(number(count)?),
            other => return Err(format!("{}: accepted are --seeds N and --from SEED", other.join(" "))),
        }
    }
    Ok(seeds)
}

/// Returns the example fleet as it is committed, with a document for each service that it lacks.
fn example_fleet() -> Result<String, String> {
    let path = run::root().join("crds/examples/fleet.yaml");
    let mut text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    for service in phase6_catalog::SERVICES.iter().map(|service| service.name) {
        if !text.contains(&format!("\n  service: {service}\n")) {
            text += &format!(
                "---\napiVersion: phase6.dev/v1alpha1\nkind: Phase6Service\nmetadata:\n  name: {service}\n\
                 spec:\n  service: {service}\n  tracing:\n    samplingRate: 0.10\n"
            );
        }
    }
    Ok(text)
}

/// Returns the reference page of all settings. A program of its own prints it, so that this one need not be
/// built with all services.
fn settings_page() -> Result<String, String> {
    let arguments = ["run", "--quiet", "--package", "phase6-runner", "--example", "settings_page"];
    let output = run::cargo(&arguments).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err("the page of all settings cannot be generated".to_owned());
    }
    String::from_utf8(output.stdout).map_err(|error| format!("the page of all settings: {error}"))
}

fn crd() -> Result<(), String> {
    let definition = phase6_crds::definition_yaml();
    let fleet = example_fleet()?;
    for (path, text) in [
        ("crds/phase6services.yaml", &definition),
        // Helm installs it where there is none, and never touches it again.
        ("charts/phase6/crds/phase6services.yaml", &definition),
        ("docs/reference/phase6service.md", &phase6_crds::reference_markdown()),
        ("docs/reference/settings.md", &settings_page()?),
        ("crds/examples/fleet.yaml", &fleet),
        // Helm can read files of its own chart only.
        ("charts/phase6/files/fleet.yaml", &fleet),
    ] {
        let path = run::root().join(path);
        if std::fs::read_to_string(&path).is_ok_and(|committed| committed == *text) {
            println!("{} is up to date", path.display());
            continue;
        }
        std::fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
