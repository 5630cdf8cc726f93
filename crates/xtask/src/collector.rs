//! The OpenTelemetry collector that tests send spans to: the real one, built from its Go modules in
//! `tests/collector`.

use std::{path::PathBuf, process::Command};

use crate::run::{find, root, succeed};

/// Builds it where it is not up to date, and tells where it is.
pub(crate) fn build() -> Result<PathBuf, String> {
    if find("go").is_none() {
        return Err(
            "the collector that tests send spans to needs Go 1.24 or newer, and it is not here".into()
        );
    }
    println!("building the collector (one or two minutes on two cores)");
    let program = root().join("target/tools/bin/otelcol");
    let mut go = Command::new("go");
    go.current_dir(root().join("tests/collector")).env("CGO_ENABLED", "0");
    go.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"]).arg(&program).arg(".");
    succeed(&mut go).map_err(|error| format!("cannot build the collector: {error}"))?;
    Ok(program)
}
