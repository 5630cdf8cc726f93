//! `cargo xtask instructions`: counts the instructions per call of each hot path, and compares them with the accepted
//! counts.
//!
//! Times vary by tens of percent on a shared machine; instruction counts do not, so an increase of a few percent
//! is detected. Callgrind counts the program in `tests/instructions` twice, the second time with twice as many
//! calls; the difference excludes the start of the program. Counts depend on the compiler: those of another
//! compiler are printed but not compared.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{image, run::root, servers::provide};

/// Relative change above which a higher count fails, and a lower one should be accepted.
const TOLERANCE: f64 = 0.05;

/// Instructions per call of each hot path.
type Counts = BTreeMap<String, f64>;

/// Purpose of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Compare the counts with the accepted ones.
    Compare,
    /// Accept the counts.
    Accept,
}

/// Result of a comparison.
struct Comparison {
    /// A line for each hot path, and one if the counts were not compared.
    lines: Vec<String>,
    result: Result<(), String>,
}

pub(crate) fn run(purpose: Purpose) -> Result<(), String> {
    provide("valgrind", "valgrind")?;
    // The program is part of the release build, which also makes the images.
    image::build()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let program = target.join("release/instructions");
    let names = output(&mut Command::new(&program))?;
    let mut counted = Counts::new();
    for line in names.lines() {
        let name = line.split_once(' ').and_then(|(name, calls)| Some((name, calls.parse::<u64>().ok()?)));
        let (name, calls) = name.ok_or_else(|| format!("{}: unexpected output {line}", program.display()))?;
        let once = count(&program, name, calls)?;
        let twice = count(&program, name, 2 * calls)?;
        counted.insert(name.to_owned(), twice.saturating_sub(once) as f64 / calls as f64);
    }
    let compiler = output(Command::new("rustc").arg("-V"))?;
    let compiler = format!("{}, {}", compiler.trim(), std::env::consts::ARCH);
    let path = root().join("tests/instructions/accepted.json");
    if purpose == Purpose::Accept {
        let rounded: BTreeMap<_, _> = counted.iter().map(|(name, count)| (name, count.round())).collect();
        let accepted = json!({"compiler": compiler, "instructions": rounded});
        let text = format!("{accepted:#}\n");
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("wrote {}", path.display());
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let accepted: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let comparison = compare(&accepted, &counted, &compiler);
    for line in comparison.lines {
        println!("{line}");
    }
    comparison.result
}

/// Returns the number of instructions of the whole program.
fn count(program: &Path, name: &str, calls: u64) -> Result<u64, String> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = command.args([name, &calls.to_string()]).output();
    let output = output.map_err(|error| format!("failed to start valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let counted = text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    counted.filter(|_| output.status.success()).ok_or_else(|| format!("failed to count {name}: {text}"))
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("failed to start {name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} exited with {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{name}: {error}"))
}

/// Compares counts of this compiler with the accepted ones. Fails if a hot path needs more instructions
/// than accepted, or has only one of the two counts.
fn compare(accepted: &Value, counted: &Counts, compiler: &str) -> Comparison {
    let accepted_compiler = accepted["compiler"].as_str().unwrap_or("no compiler");
    let (mut lines, mut failed) = (Vec::new(), 0);
    for (name, count) in counted {
        let line = match accepted["instructions"][name].as_f64() {
            None => {
                failed += 1;
                format!("{name}: {count:.0} instructions per call, none accepted yet")
            }
            Some(before) => {
                let change = count / before - 1.0;
                let remark = if change > TOLERANCE {
                    failed += 1;
                    ": too many"
                } else if change < -TOLERANCE {
                    ": fewer; accept them with `cargo xtask instructions --accept`"
                } else {
                    ""
                };
                format!(
                    "{name}: {count:.0} instructions per call, {before:.0} accepted ({:+.1} %){remark}",
                    change * 100.0
                )
            }
        };
        lines.push(line);
    }
    // A hot path that is no longer counted could become slow unnoticed.
    let accepted_names = accepted["instructions"].as_object().into_iter().flatten().map(|(name, _)| name);
    for name in accepted_names.filter(|name| !counted.contains_key(*name)) {
        failed += 1;
        lines.push(format!("{name}: accepted, but no longer counted"));
    }
    if accepted_compiler != compiler {
        lines.push(format!(
            "not compared: the accepted counts are of {accepted_compiler}, these of {compiler}"
        ));
        return Comparison { lines, result: Ok(()) };
    }
    let remedy = "if the increase is justified, accept it with `cargo xtask instructions --accept`";
    let result = if failed == 0 {
        Ok(())
    } else {
        Err(format!("{failed} hot paths differ from the accepted counts; {remedy}"))
    };
    Comparison { lines, result }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare_one(accepted: f64, counted: f64, compiler: &str) -> (String, Result<(), String>) {
        let accepted = json!({"compiler": "rustc 1", "instructions": {"path": accepted}});
        let comparison = compare(&accepted, &Counts::from([("path".into(), counted)]), compiler);
        (comparison.lines.join("\n"), comparison.result)
    }

    #[test]
    fn an_increase_of_more_than_five_percent_fails_with_a_remedy() {
        assert_eq!(compare_one(1000.0, 1049.0, "rustc 1").1, Ok(()));
        let (line, result) = compare_one(1000.0, 1051.0, "rustc 1");
        assert_eq!(line, "path: 1051 instructions per call, 1000 accepted (+5.1 %): too many");
        assert!(result.unwrap_err().contains("instructions --accept"));
    }

    #[test]
    fn a_decrease_of_more_than_five_percent_passes_with_a_remark() {
        let (line, result) = compare_one(1000.0, 900.0, "rustc 1");
        assert!(line.contains("(-10.0 %): fewer") && line.contains("--accept"), "{line}");
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn counts_of_another_compiler_are_printed_but_not_compared() {
        let (line, result) = compare_one(1000.0, 2000.0, "rustc 2");
        assert!(line.contains("(+100.0 %)") && line.contains("not compared"), "{line}");
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn a_hot_path_with_only_one_of_the_two_counts_fails() {
        let accepted = json!({"compiler": "rustc 1", "instructions": {"path": 1.0}});
        assert!(compare(&accepted, &Counts::new(), "rustc 1").result.is_err());
        let both = Counts::from([("path".into(), 1.0), ("new".into(), 1.0)]);
        assert!(compare(&accepted, &both, "rustc 1").result.is_err());
    }
}
