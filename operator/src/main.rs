//! `phase6-operator`, the program that runs in the cluster.

use std::process::ExitCode;

use clap::Parser;
use phase6_operator::{run, settings::Settings, with_cause};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    // The client logs every error response. The operator logs those that matter itself.
    let filter = Targets::new().with_default(LevelFilter::INFO).with_target("kube_client", LevelFilter::OFF);
    let format = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false);
    tracing_subscriber::registry().with(format.with_span_list(false)).with(filter).init();
    // All libraries use the same cryptography provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(settings, shutdown_signal()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", with_cause(&error));
            ExitCode::FAILURE
        }
    }
}

/// Completes when the process is asked to terminate.
async fn shutdown_signal() {
    let handler =
        |kind| signal(kind).map_err(|error| tracing::error!(%error, "failed to install a signal handler"));
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (handler(SignalKind::terminate()), handler(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
