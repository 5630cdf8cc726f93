//! Runs services: the whole fleet in one process ([`up`]), or one service as a pod does ([`serve`]).
//!
//! ```text
//! YAML --FileWatch--> read + check (manifest) --plan--> actions --> Enforcer of each service
//!            errors: printed, shown at /policyz; the fleet keeps its last valid policy
//! ```
//!
//! In a cluster the operator replaces `up`: the same manifests, the same services.

mod error;
mod host;
mod log;
mod manifests;
pub mod output;
pub mod serve;
mod services;
mod settings;
mod signals;
pub mod table;
pub mod up;
mod watch;

pub use error::{RunError, error_chain};
pub use host::HostOptions;
pub use log::LogFormat;
pub use manifests::{lines, load};
pub use settings::{check_environment, setting_names, settings_page};
