//! Results of a test run: passed and failed tests, and the duration of each part.

use std::{fmt, process::Command, time::Duration};

use crate::run::succeed;

/// Counts and durations of everything that has run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: u32,
    failed: Vec<String>,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: String,
    duration: Duration,
}

/// Counts that a test program printed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: Vec<String>,
}

impl Counts {
    /// Reads the output of a program of libtest's format.
    ///
    /// `success` is the program's exit status: one that fails without naming a failed test counts as a
    /// failure called `program`.
    pub(crate) fn read(output: &str, success: bool, program: &str) -> Self {
        let mut counts = Self::default();
        let mut failed = 0;
        for line in output.lines() {
            if let Some(name) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
                counts.failed.push(name.to_owned());
            }
            // test result: ok. 3 passed; 0 failed; 0 ignored; ...
            if let Some(summary) = line.strip_prefix("test result: ") {
                let count = |word: &str| {
                    let (before, _) = summary.split_once(word)?;
                    before.trim_end().rsplit(' ').next()?.parse::<usize>().ok()
                };
                counts.passed += count("passed").unwrap_or(0) as u32;
                failed += count("failed").unwrap_or(0);
            }
        }
        while counts.failed.len() < failed.max(usize::from(!success)) {
            counts.failed.push(program.to_owned());
        }
        counts
    }
}

impl Report {
    /// Runs one part, and records its duration.
    pub(crate) fn timed<T>(&mut self, name: &str, part: impl FnOnce(&mut Self) -> T) -> T {
        println!("running: {name}");
        let start = std::time::Instant::now();
        let result = part(self);
        let duration = start.elapsed();
        println!("took {} s: {name}", duration.as_secs());
        self.parts.push(Part { name: name.to_owned(), duration });
        result
    }

    /// Runs a command as one part that passes or fails.
    pub(crate) fn check(&mut self, name: &str, mut command: Command) {
        self.step(name, || succeed(&mut command));
    }

    /// Runs a function as one part that passes or fails. Returns its value if it passed.
    pub(crate) fn step<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T, String>) -> Option<T> {
        match self.timed(name, |_| step()) {
            Ok(value) => {
                self.passed += 1;
                Some(value)
            }
            Err(error) => {
                println!("{error}");
                self.failed.push(name.to_owned());
                None
            }
        }
    }

    /// Adds the counts of a test program.
    pub(crate) fn add(&mut self, counts: Counts) {
        self.passed += counts.passed;
        self.failed.extend(counts.failed);
    }

    /// Succeeds if nothing failed.
    pub(crate) fn result(&self) -> Result<(), String> {
        if self.failed.is_empty() { Ok(()) } else { Err("some tests failed".into()) }
    }
}

/// The table of parts, the names of failures, and the line `N passed, N failed`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>8}   PART", "SECONDS")?;
        for part in &self.parts {
            writeln!(f, "{:>8}   {}", part.duration.as_secs(), part.name)?;
        }
        let total: Duration = self.parts.iter().map(|part| part.duration).sum();
        writeln!(f, "{:>8}   total", total.as_secs())?;
        for name in &self.failed {
            writeln!(f, "failed: {name}")?;
        }
        write!(f, "{} passed, {} failed", self.passed, self.failed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "test result: ok. 30 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out";

    #[test]
    fn counts_are_read_from_the_output_of_the_tests() {
        let output = "running 3 tests\ntest a::works ... ok\ntest b::does_not ... FAILED\n\
             test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        let counts = Counts::read(output, false, "unit");
        assert_eq!((counts.passed, counts.failed), (12, vec!["b::does_not".to_owned()]));
        assert_eq!(Counts::read(PASSED, true, "unit"), Counts { passed: 30, failed: vec![] });
    }

    /// The scripts of the original system ended with success whatever had failed.
    #[test]
    fn every_failure_makes_the_whole_run_fail() {
        let result = |output: &str, success: bool| {
            let mut report = Report::default();
            report.add(Counts::read(output, success, "program"));
            report.result()
        };
        let failed = "test result: FAILED. 2 passed; 1 failed; 0 ignored";
        assert_eq!(result(PASSED, true), Ok(()));
        assert!(result(failed, false).is_err());
        assert!(result(failed, true).is_err(), "even if the program ends with success");
        assert!(result(PASSED, false).is_err(), "the program failed without counting a failure");
        assert!(result("error: could not compile", false).is_err());
        let mut report = Report::default();
        report.step("lints", || Err::<(), _>("no".to_owned()));
        assert!(report.result().is_err());
    }

    #[test]
    fn the_last_line_has_both_counts() {
        let mut report = Report::default();
        report.step("format", || Ok(()));
        report.add(Counts::read(PASSED, true, "unit"));
        let text = report.to_string();
        assert!(text.contains("   format\n"), "{text}");
        assert!(text.ends_with("\n31 passed, 0 failed"), "{text}");
    }
}
