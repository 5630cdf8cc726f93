//! Developers' commands: `cargo xtask COMMAND`.
//!
//! * `test`: every check and test, with the servers and the cluster that they need.
//! * `bench`: every benchmark; writes the table in `docs/performance.md`.
//! * `cluster`: a real Kubernetes for tests.
//! * `e2e`, `prove`: the product on that cluster.
//! * `chaos`: services under load while their Redis fails in every way.
//! * `simulate`: limits, breakers, shared fills and the cache in many seeded scenarios.
//! * `fuzz`: the parsers of untrusted input.
//! * `instructions`: instructions per call of each hot path, compared with the accepted counts.
//! * `mutants`: mutation tests of the cores.
//! * `demo`: a fleet on a cluster, to try.
//! * `image`: the image of the product, without Docker.
//! * `crd`: the generated files: definition, reference pages, example fleet.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod background;
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

use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "usage: cargo xtask COMMAND

  test [--without-cluster]
         run every check and test, with private PostgreSQL, Redis and Kubernetes servers
  test --changed [REVISION]
         run the checks and tests of the packages that the changes since REVISION (default HEAD) can break
  demo   start a cluster and install the demo fleet
  bench  measure, and write the table in docs/performance.md; --smoke only shows that the benchmarks run
  cluster COMMAND
         manage a Kubernetes for tests; without COMMAND, list the commands
  e2e [--kubeconfig FILE] [NAME...]
         run the product on this machine's cluster, or on another one
  prove  run the same at its full count, which takes longer
  chaos [--rounds N]
         run services under load while their Redis is killed, frozen, emptied or slowed down; 50 rounds each
  simulate [limits|breaker|fills|cache] [--seeds N] [--from SEED]
         simulate limits (10,000 scenarios of replicas that start, die and lose messages, and of clocks
         that step), breakers (100,000 scenarios, compared with a model), shared fills (10,000 scenarios of
         replicas that need one response), and the cache (1,000,000 sequences, compared with a model of
         RFC 9111). A failure prints its seed; --seeds 1 --from SEED with the name of the part replays it
  fuzz [--seconds N] [TARGET...]
         fuzz the parsers of untrusted input, 60 seconds each
  fuzz --merge [TARGET...]
         renew the committed corpus with the inputs of earlier runs
  instructions [--accept]
         count the instructions of each hot path; more than accepted is a failure
  mutants [FILE...]
         run mutation tests of the cores, or of these files
  image  make the image of the product as an archive, without Docker
  crd    write the generated files
";

fn main() -> ExitCode {
    fuzz::wrap_compiler(&std::env::args_os().collect::<Vec<_>>());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => test::run(test::Scope::Whole),
        ["test", "--without-cluster"] => test::run(test::Scope::WithoutCluster),
        ["test", "--changed"] => test::run_changed("HEAD"),
        ["test", "--changed", revision] => test::run_changed(revision),
        ["bench"] => bench::run(bench::Effort::Measure),
        ["bench", "--smoke"] => bench::run(bench::Effort::Smoke),
        ["cluster", ..] => cluster::run(&arguments[1..]),
        ["e2e", "--kubeconfig", file, filters @ ..] => e2e::run_with(file, filters),
        ["e2e", filters @ ..] if filters.iter().all(|filter| !filter.starts_with('-')) => e2e::run(filters),
        ["prove"] => e2e::prove(),
        ["chaos"] => chaos::run(chaos::ROUNDS),
        ["chaos", "--rounds", rounds] => match rounds.parse() {
            Ok(rounds) => chaos::run(rounds),
            Err(_) => Err(format!("--rounds {rounds}; accepted: an integer")),
        },
        ["simulate", "limits", options @ ..] => seeds(options).and_then(simulate::limits),
        ["simulate", "breaker", options @ ..] => seeds(options).and_then(simulate::breaker),
        ["simulate", "fills", options @ ..] => seeds(options).and_then(simulate::fills),
        ["simulate", "cache", options @ ..] => seeds(options).and_then(simulate::cache),
        ["simulate", options @ ..] => seeds(options).and_then(|seeds| {
            simulate::limits(seeds)?;
            simulate::breaker(seeds)?;
            simulate::fills(seeds)?;
            simulate::cache(seeds)
        }),
        ["fuzz", options @ ..] => fuzz::run(options),
        ["instructions"] => instructions::run(instructions::Purpose::Compare),
        ["instructions", "--accept"] => instructions::run(instructions::Purpose::Accept),
        ["mutants", files @ ..] => mutants::run(files),
        ["demo"] => demo::run(),
        ["image"] => image::run(),
        ["crd"] => crd(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => {
            eprint!("error: cargo xtask {} is not a command\n\n{USAGE}", other.join(" "));
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
        let number =
            |number: &str| number.parse().map_err(|_| format!("{}; accepted: an integer", option.join(" ")));
        match option {
            ["--from", from] => seeds.from = number(from)?,
            ["--seeds", count] => seeds.count = Some(number(count)?),
            other => {
                return Err(format!(
                    "{}; accepted: limits, breaker, fills or cache, then --seeds N and --from SEED",
                    other.join(" ")
                ));
            }
        }
    }
    Ok(seeds)
}

/// Returns the example fleet as it is committed, with a document for each service that it lacks.
fn example_fleet() -> Result<String, String> {
    let path = run::root().join("crds/examples/fleet.yaml");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut documents: Vec<String> = text.split("---\n").map(str::to_owned).collect();
    // In the order of the catalog.
    for (index, service) in phase6_catalog::SERVICES.iter().enumerate() {
        let service = service.name;
        if !text.contains(&format!("\n  service: {service}\n")) {
            let document = format!(
                "apiVersion: phase6.dev/v1alpha1\nkind: Phase6Service\nmetadata:\n  name: {service}\n\
                 spec:\n  service: {service}\n  tracing:\n    samplingRate: 0.10\n"
            );
            documents.insert(index.min(documents.len()), document);
        }
    }
    Ok(documents.join("---\n"))
}

/// Returns the reference page of all settings. A separate program prints it, so that this one need not be
/// built with all services.
fn settings_page() -> Result<String, String> {
    // With the features that a build of the workspace selects, so that nothing is built twice.
    let arguments = ["build", "--workspace", "--bin", "settings_page", "--message-format=json"];
    let output = run::cargo(&arguments).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("failed to start cargo: {error}"))?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(str::to_owned)
    });
    let program = program.ok_or("the program that prints the settings does not compile")?;
    let output = Command::new(&program).output();
    let output = output.map_err(|error| format!("failed to start {program}: {error}"))?;
    String::from_utf8(output.stdout).map_err(|error| format!("output of {program}: {error}"))
}

fn crd() -> Result<(), String> {
    let definition = phase6_crds::definition_yaml();
    let fleet = example_fleet()?;
    for (path, text) in [
        ("crds/phase6services.yaml", &definition),
        // Helm installs the definition where there is none, and never changes it afterwards.
        ("charts/phase6/crds/phase6services.yaml", &definition),
        ("docs/reference/phase6service.md", &phase6_crds::reference_markdown()),
        ("docs/reference/settings.md", &settings_page()?),
        ("crds/examples/fleet.yaml", &fleet),
        // Helm can only read files of the chart.
        ("charts/phase6/files/fleet.yaml", &fleet),
    ] {
        let path = run::root().join(path);
        if std::fs::read_to_string(&path).is_ok_and(|committed| committed == *text) {
            println!("{} is up to date", path.display());
            continue;
        }
        std::fs::write(&path, text)
            .map_err(|error| format!("failed to write {}: {error}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
