//! The program `phase6`: reads its arguments and ends with 0 (good), 1 (findings) or 2 (usage).

use std::process::ExitCode;

fn main() -> ExitCode {
    phase6_cli::run()
}
