//! The program `phase6`. Exit codes: 0 success, 1 errors found or work failed, 2 invalid command line.

mod args;
mod commands;
mod fleet_client;

use std::{process::ExitCode, time::Duration};

use clap::{CommandFactory, Parser};
use phase6_runner::{RunError, check_environment, output::print, serve, up};

use crate::args::{Arguments, Cache, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Up(options) => check_settings().and_then(|()| block_on(up::run(options))),
        Command::Serve(options) if options.help_settings => serve::print_settings(&options),
        // An operator may set variables that this image does not know yet.
        Command::Serve(options) if options.is_run_by_operator() => block_on(serve::run(options)),
        Command::Serve(options) => check_settings().and_then(|()| block_on(serve::run(options))),
        Command::Explain(options) => commands::explain::run(&options),
        Command::Status(target) => block_on(commands::status::run(target)),
        Command::Cache(Cache::Purge(options)) => block_on(commands::cache_purge::run(options)),
        Command::Keys(command) => block_on(commands::keys::run(command)),
        Command::Completions { shell } => print(args::completions(shell)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Checks that the environment has no unknown `PHASE6_*` variables.
fn check_settings() -> Result<(), RunError> {
    check_environment(&Arguments::command())
}

fn block_on(work: impl Future<Output = Result<(), RunError>>) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| RunError::Failed(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(work);
    // Everything was stopped in order before; what still runs is blocking work without a result.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}
