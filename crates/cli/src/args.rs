//! What the command line accepts. Doc comments are its help texts.

#![allow(clippy::doc_markdown, reason = "help is read in a terminal, where backticks only disturb")]

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;

/// Tune caching, rate limits, circuit breaking and tracing of a fleet while it runs.
#[derive(Debug, Parser)]
#[command(name = "phase6", version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole fleet in this process and obey its file while it runs
    Up(Up),
    /// Run one service, as a pod does
    Serve(Serve),
    /// Show every setting in force and where it comes from; exit 1 with all faults
    Explain(Explain),
    /// Ask the running services which policy they enforce
    Status(Asked),
    /// What the services have cached
    #[command(subcommand)]
    Cache(Cache),
    /// Make an API key: prints the key, and the line for the key file
    Key(Key),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// File or folder with Phase6Service documents; may be given several times
    /// [default: crds/examples/fleet.yaml, or else a copy of it in the data folder]
    #[arg(short, long = "file", value_name = "PATH")]
    pub(crate) files: Vec<PathBuf>,

    /// Run only these services
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// Shift every port: port 3000+k becomes N+k
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u16).range(1..=65_526))]
    pub(crate) base_port: u16,

    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The service
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// Compiled policy document to obey, as the operator mounts it
    #[arg(long, value_name = "FILE", env = "PHASE6_POLICY_FILE", conflicts_with = "files")]
    pub(crate) policy: Option<PathBuf>,

    /// ConfigMap with the same document, in this pod's namespace: watched, because a mounted file
    /// follows only after a minute
    #[arg(long, value_name = "NAME", env = "PHASE6_POLICY_OBJECT", requires = "policy")]
    pub(crate) policy_object: Option<String>,

    /// File or folder with Phase6Service documents to obey
    #[arg(short, long = "file", value_name = "PATH")]
    pub(crate) files: Vec<PathBuf>,

    /// Port [default: the service's own]
    #[arg(long, value_name = "N", env = "PHASE6_PORT")]
    pub(crate) port: Option<u16>,

    /// Where a peer is: NAME=HOST:PORT, several endpoints separated by `+`
    #[arg(long, value_name = "PEER", value_delimiter = ',', env = "PHASE6_PEERS")]
    pub(crate) peer: Vec<String>,

    /// Call peers that are given by the bare name of a Service pod by pod: watch its EndpointSlices, in this
    /// pod's namespace
    #[arg(long, env = "PHASE6_FOLLOW_PEERS")]
    pub(crate) follow_peers: bool,

    /// Name under which replicas share limits and cached answers [default: the service's]
    #[arg(long, value_name = "NAME", env = "PHASE6_SHARED_AS")]
    pub(crate) shared_as: Option<String>,

    /// How long at most to stay reachable after SIGTERM while no longer ready and callers are asked to
    /// connect elsewhere; from 0 to 300. A second signal cuts it short
    #[arg(
        long, value_name = "SECONDS", env = "PHASE6_NOTICE_SECONDS", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(..=300)
    )]
    pub(crate) notice: u64,

    /// How long to wait for a database that cannot be reached yet, instead of ending; from 0 to 300
    #[arg(
        long, value_name = "SECONDS", env = "PHASE6_WAIT_SECONDS", default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(..=300)
    )]
    pub(crate) wait: u64,

    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Folder for what outlives a restart: records, cache
    #[arg(long, value_name = "DIR", env = "PHASE6_DATA", default_value = ".phase6")]
    pub(crate) data: PathBuf,

    /// Address to listen on; anything but loopback needs --api-keys
    #[arg(long, value_name = "ADDR", env = "PHASE6_BIND", default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,

    /// Where records are: sqlite://PATH or postgres://USER@HOST/NAME [default: a file in the data
    /// folder]
    #[arg(long, value_name = "URL", env = "PHASE6_DATABASE_URL", hide_env_values = true)]
    // A text until `running` reads it: clap repeats what it cannot parse, and here that may hold a
    // password.
    pub(crate) database: Option<String>,

    /// Redis that replicas share limits and cached answers through:
    /// redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], redis-sentinel://...SENTINEL[:PORT],.../MASTER or
    /// redis-cluster://...HOST[:PORT],...; rediss for TLS [default: each replica has a part of every limit
    /// that is for all, and a cache of its own]
    #[arg(long, value_name = "URL", env = "PHASE6_REDIS_URL", hide_env_values = true)]
    // A text, as with the database.
    pub(crate) redis: Option<String>,

    /// OpenTelemetry collector that finished spans go to: http://HOST:PORT, or https:// for TLS. Headers
    /// that it wants are read from OTEL_EXPORTER_OTLP_HEADERS [default: the newest spans are shown by each
    /// service, and go nowhere]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env_values = true)]
    pub(crate) otlp: Option<String>,

    /// How: http/protobuf (a collector's port 4318) or grpc (4317)
    #[arg(
        long,
        value_name = "PROTOCOL",
        env = "OTEL_EXPORTER_OTLP_PROTOCOL",
        default_value = "http/protobuf"
    )]
    pub(crate) otlp_protocol: String,

    /// File of accepted API keys, made with `phase6 key`
    #[arg(long, value_name = "FILE", env = "PHASE6_API_KEYS")]
    pub(crate) api_keys: Option<PathBuf>,

    /// Networks of proxies whose X-Forwarded-For counts
    #[arg(long, value_name = "CIDR", value_delimiter = ',', env = "PHASE6_TRUSTED_PROXIES")]
    pub(crate) trusted_proxies: Vec<IpNet>,

    /// How log lines look [default: text on a terminal, else json]
    #[arg(long, value_name = "FORM", env = "PHASE6_LOG")]
    pub(crate) log: Option<LogForm>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogForm {
    /// For people
    Text,
    /// For programs, one object a line
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// File or folder with Phase6Service documents; may be given several times
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    pub(crate) files: Vec<PathBuf>,

    /// Only this resource
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Make services forget answers, on all replicas
    #[command(
        after_help = "Where services require keys, the one of `admin` is needed; beside a service, as with \
        `kubectl exec`, its own token will do."
    )]
    Purge(Purge),
}

#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct Purge {
    #[command(flatten)]
    pub(crate) what: What,

    /// API key
    #[arg(long, value_name = "KEY", env = "PHASE6_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,

    #[command(flatten)]
    pub(crate) asked: Asked,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct What {
    /// Answers that carry this tag (Surrogate-Key); may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,

    /// Answers for this path, with any query; may be given several times
    #[arg(long = "path", value_name = "PATH")]
    pub(crate) paths: Vec<String>,

    /// Answers for this path and all below it; may be given several times
    #[arg(long = "prefix", value_name = "PATH")]
    pub(crate) prefixes: Vec<String>,

    /// All answers
    #[arg(long)]
    pub(crate) all: bool,
}

/// Which running services are asked.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// Ask only these services
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// Base port of the fleet
    #[arg(long, value_name = "N", default_value_t = 3000, value_parser = clap::value_parser!(u16).range(1..=65_526))]
    pub(crate) base_port: u16,

    /// Address of the fleet
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    pub(crate) bind: IpAddr,
}

#[derive(Debug, Args)]
pub(crate) struct Key {
    /// Whose key it is
    #[arg(value_name = "OWNER")]
    pub(crate) owner: String,
}

/// A shell's completions.
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
