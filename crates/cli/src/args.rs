//! The command line. Doc comments are the help texts.

#![allow(clippy::doc_markdown, reason = "help texts are read in a terminal, without Markdown")]

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use phase6_runner::{serve::ServeOptions, up::UpOptions};

/// Tune caching, rate limits, circuit breaking and tracing of a fleet while it runs.
#[derive(Debug, Parser)]
#[command(name = "phase6", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole fleet in this process, and apply edits of its file while it runs
    Up(UpOptions),
    /// Run one service, as a pod does
    Serve(ServeOptions),
    /// Show every effective setting and its origin; exit code 1 and all errors if a file is invalid
    Explain(Explain),
    /// Show which policy the running services enforce
    Status(Target),
    /// Manage cached responses
    #[command(subcommand)]
    Cache(Cache),
    /// Create an API key: prints the key, and its line for the key file
    Key(Key),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// File or folder with Phase6Service documents; repeatable
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    pub(crate) files: Vec<PathBuf>,

    /// Show only this resource
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Invalidate cached responses on all replicas
    #[command(
        after_help = "Services that require API keys accept the key of `admin`. On the same host, as with \
        `kubectl exec`, the internal token of the service is enough."
    )]
    Purge(Purge),
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Purge {
    #[command(flatten)]
    pub(crate) selection: Selection,

    /// API key
    #[arg(long, value_name = "KEY", env = "PHASE6_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,

    #[command(flatten)]
    pub(crate) target: Target,
}

/// Responses to invalidate.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Selection {
    /// Responses with this tag (Surrogate-Key); repeatable
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,

    /// Responses for this path, with any query; repeatable
    #[arg(long = "path", value_name = "PATH")]
    pub(crate) paths: Vec<String>,

    /// Responses for this path and all paths below it; repeatable
    #[arg(long = "prefix", value_name = "PATH")]
    pub(crate) prefixes: Vec<String>,

    /// All responses
    #[arg(long)]
    pub(crate) all: bool,
}

/// Running services that a command calls.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Call only these services
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// First port of the fleet
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u16).range(1..=64_536))]
    pub(crate) base_port: u16,

    /// Address of the fleet
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
}

#[derive(Debug, Args)]
pub(crate) struct Key {
    /// Owner of the key
    #[arg(value_name = "OWNER")]
    pub(crate) owner: String,
}

/// Returns the completion script of a shell.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "phase6", &mut script);
    String::from_utf8_lossy(&script).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
