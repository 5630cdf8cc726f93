//! `phase6-operator`: what runs in the cluster.

use std::process::ExitCode;

use clap::Parser;
use phase6_operator::{run, settings::Settings};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    // The client logs every answer that is an error; where one matters, we say so ourselves.
    let wanted = Targets::new().with_default(LevelFilter::INFO).with_target("kube_client", LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false);
    tracing_subscriber::registry().with(lines.with_span_list(false)).with(wanted).init();
    // One provider of cryptography, whichever library asks for one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stop = async {
        let asked = |kind| signal(kind).map_err(|error| tracing::error!(%error, "signals cannot be heard"));
        let (Ok(mut terminate), Ok(mut interrupt)) =
            (asked(SignalKind::terminate()), asked(SignalKind::interrupt()))
        else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    match run::run(settings, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
