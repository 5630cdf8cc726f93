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
    /// Manage API keys: those of a running fleet, or those in a key file
    #[command(subcommand)]
    Keys(Keys),
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
        after_help = "Services that require API keys accept a key with the role admin of the tenant default. On \
        the same host, as with `kubectl exec`, the internal token of the service is enough."
    )]
    Purge(Purge),
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Purge {
    #[command(flatten)]
    pub(crate) selection: Selection,

    #[command(flatten)]
    pub(crate) credentials: Credentials,

    #[command(flatten)]
    pub(crate) target: Target,
}

/// Credentials of a command.
#[derive(Debug, Default, Args)]
pub(crate) struct Credentials {
    /// API key of the caller
    #[arg(long, value_name = "KEY", env = "PHASE6_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
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

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Create a key, and print its secret: it cannot be shown again
    #[command(
        after_help = "As long as a fleet on this machine has no key, everybody may create its first one, an admin of \
        the tenant default; from then on the fleet requires keys. A changed key file, like a change in the database, acts within about a second."
    )]
    Create(CreateKey),
    /// List the keys, without their secrets
    List(ListKeys),
    /// Revoke a key
    Revoke(RevokeKey),
}

#[derive(Debug, Args)]
pub(crate) struct CreateKey {
    /// Person or program that will hold the key
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// Tenant whose data the key gives access to
    #[arg(long, value_name = "TENANT", default_value = "default")]
    pub(crate) tenant: String,

    /// Permissions: reader (reads), member (reads and writes), service (acts for all of its tenant) or admin
    /// (also manages keys and settings)
    #[arg(long, value_name = "ROLE", default_value = "member")]
    pub(crate) role: String,

    #[command(flatten)]
    pub(crate) place: KeyPlace,
}

#[derive(Debug, Args)]
pub(crate) struct ListKeys {
    #[command(flatten)]
    pub(crate) place: KeyPlace,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeKey {
    /// ID of the key
    #[arg(value_name = "ID")]
    pub(crate) id: String,

    #[command(flatten)]
    pub(crate) place: KeyPlace,
}

/// Place of the keys: a file, or a running fleet.
#[derive(Debug, Args)]
pub(crate) struct KeyPlace {
    /// Use this key file instead of a running fleet
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "base_port", "bind"])]
    pub(crate) file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) fleet: Fleet,
}

/// A running fleet, and the credentials for it.
#[derive(Debug, Args)]
pub(crate) struct Fleet {
    #[command(flatten)]
    pub(crate) credentials: Credentials,

    #[command(flatten)]
    pub(crate) target: Target,
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
