//! The command line: the whole fleet in one process (`up`), one service as a pod runs it
//! (`serve`), and what people ask of a fleet (`explain`, `status`, `cache purge`).
//!
//! ```text
//! YAML --FileWatch--> read + check (crds) --compile--> PolicyDocument --> Enforcer of each service
//!            faults: told, shown at /policyz, the fleet goes on
//! ```
//!
//! In a cluster the operator stands where `up` stands: the same documents, the same services.

mod args;
mod asked;
mod ending;
mod explain;
mod files;
mod keys;
mod log;
mod output;
mod purge;
mod running;
mod serve;
mod services;
mod status;
mod stopping;
mod table;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Arguments, Cache, Command},
    ending::Ending,
};

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Up(up) => in_runtime(up::run(up)),
        Command::Serve(serve) => in_runtime(serve::run(serve)),
        Command::Explain(explain) => explain::run(&explain),
        Command::Status(status) => in_runtime(status::run(status)),
        Command::Cache(Cache::Purge(purge)) => in_runtime(purge::run(purge)),
        Command::Key(key) => keys::run(&key),
        Command::Completions { shell } => output::print(args::completions(shell)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(ending) => ending.report(),
    }
}

fn in_runtime(work: impl Future<Output = Result<(), Ending>>) -> Result<(), Ending> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Ending::Findings(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(work);
    // What still runs after everything was stopped is not worth waiting for.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    result
}
