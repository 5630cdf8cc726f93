//! `cargo xtask instructions`: how many instructions a call of each core runs, held against what was accepted.
//!
//! Times vary by tens of percent on a shared machine; instructions do not, so a few percent more are seen.
//! `tests/instructions` is the program that is counted, by valgrind's callgrind: once with so many calls and
//! once with twice as many, whose difference is free of the start. What was accepted lies beside it. Counts
//! depend on the compiler: those of another one are shown and not held against it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::{image, run::root, servers::provide};

/// So much more fails, so much less is to be accepted.
const TOLERATED: f64 = 0.05;

/// Counts by core.
type Counts = BTreeMap<String, f64>;

/// What is done with the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// They are held against what was accepted.
    Judge,
    /// They are accepted.
    Accept,
}

pub(crate) fn run(purpose: Purpose) -> Result<(), String> {
    provide("valgrind", "valgrind")?;
    // Part of the release build that images and fuzz targets share.
    image::build()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let program = target.join("release/instructions");
    let cores = output(&mut Command::new(&program))?;
    let mut counted = Counts::new();
    for line in cores.lines() {
        let core = line.split_once(' ').and_then(|(core, calls)| Some((core, calls.parse::<u64>().ok()?)));
        let (core, calls) = core.ok_or_else(|| format!("{}: {line} is no core", program.display()))?;
        let once = count(&program, core, calls)?;
        let twice = count(&program, core, 2 * calls)?;
        counted.insert(core.to_owned(), twice.saturating_sub(once) as f64 / calls as f64);
    }
    let compiler = output(Command::new("rustc").arg("-V"))?;
    let compiler = format!("{}, {}", compiler.trim(), std::env::consts::ARCH);
    let path = root().join("tests/instructions/accepted.json");
    if purpose == Purpose::Accept {
        let rounded: BTreeMap<_, _> = counted.iter().map(|(core, count)| (core, count.round())).collect();
        let accepted = json!({"compiler": compiler, "instructions": rounded});
        let text = format!("{accepted:#}\n");
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        println!("wrote {}", path.display());
        return Ok(());
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let accepted: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let (lines, result) = judge(&accepted, &counted, &compiler);
    for line in lines {
        println!("{line}");
    }
    result
}

/// Instructions of the whole program.
fn count(program: &Path, core: &str, calls: u64) -> Result<u64, String> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = command.args([core, &calls.to_string()]).output();
    let output = output.map_err(|error| format!("cannot start valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let counted = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    counted.filter(|_| output.status.success()).ok_or_else(|| format!("{core} cannot be counted: {said}"))
}

fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("cannot start {name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{name} ended with {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{name}: {error}"))
}

/// A line for each core, and whether none has become slower.
fn judge(accepted: &Value, counted: &Counts, compiler: &str) -> (Vec<String>, Result<(), String>) {
    let by = accepted["compiler"].as_str().unwrap_or("no compiler");
    let known = |core: &str| accepted["instructions"][core].as_f64();
    let (mut lines, mut slower) = (Vec::new(), 0);
    for (core, count) in counted {
        let line = match known(core) {
            None => {
                slower += 1;
                format!("{core}: {count:.0} instructions a call, none accepted yet")
            }
            Some(before) => {
                let change = count / before - 1.0;
                let judged = if change > TOLERATED {
                    slower += 1;
                    ": slower"
                } else if change < -TOLERATED {
                    ": faster, which `cargo xtask instructions --accept` keeps"
                } else {
                    ""
                };
                format!(
                    "{core}: {count:.0} instructions a call, {before:.0} accepted ({:+.1} %){judged}",
                    change * 100.0
                )
            }
        };
        lines.push(line);
    }
    if let Some(gone) = accepted["instructions"].as_object().into_iter().flatten().find(|(core, _)| {
        // A core that nobody counts any more could become as slow as it likes.
        !counted.contains_key(*core)
    }) {
        slower += 1;
        lines.push(format!("{}: accepted, and not counted any more", gone.0));
    }
    if by != compiler {
        lines.push(format!(
            "not held against each other: accepted are counts of {by}, these are of {compiler}"
        ));
        return (lines, Ok(()));
    }
    let how = "where that is the price of something, `cargo xtask instructions --accept` accepts it";
    let result = if slower == 0 { Ok(()) } else { Err(format!("{slower} above what was accepted; {how}")) };
    (lines, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(accepted: f64, counted: f64, compiler: &str) -> (String, Result<(), String>) {
        let accepted = json!({"compiler": "rustc 1", "instructions": {"core": accepted}});
        let (lines, result) = judge(&accepted, &Counts::from([("core".into(), counted)]), compiler);
        (lines.join("\n"), result)
    }

    #[test]
    fn more_than_five_percent_above_fails_and_says_which_and_how_to_accept_it() {
        assert_eq!(judged(1000.0, 1049.0, "rustc 1").1, Ok(()));
        let (line, result) = judged(1000.0, 1051.0, "rustc 1");
        assert_eq!(line, "core: 1051 instructions a call, 1000 accepted (+5.1 %): slower");
        assert!(result.unwrap_err().contains("instructions --accept"));
    }

    #[test]
    fn more_than_five_percent_below_is_a_note() {
        let (line, result) = judged(1000.0, 900.0, "rustc 1");
        assert!(line.contains("(-10.0 %): faster") && line.contains("--accept"), "{line}");
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn counts_of_another_compiler_are_shown_and_not_judged() {
        let (line, result) = judged(1000.0, 2000.0, "rustc 2");
        assert!(line.contains("(+100.0 %)") && line.contains("not held against each other"), "{line}");
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn a_core_without_a_count_or_without_an_accepted_one_fails() {
        let accepted = json!({"compiler": "rustc 1", "instructions": {"core": 1.0}});
        assert!(judge(&accepted, &Counts::new(), "rustc 1").1.is_err());
        let both = Counts::from([("core".into(), 1.0), ("new".into(), 1.0)]);
        assert!(judge(&accepted, &both, "rustc 1").1.is_err());
    }
}
