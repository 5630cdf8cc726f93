//! The OpenTelemetry collector that tests export spans to: the real one, built from `tests/collector`.

use std::path::PathBuf;

use crate::{
    background::idle,
    run::{find, root, succeed},
};

/// Builds the collector unless it is up to date, and returns its path.
pub(crate) fn build() -> Result<PathBuf, String> {
    if find("go").is_none() {
        return Err("the OpenTelemetry collector for the tests needs Go 1.24 or newer, which is not \
                    installed"
            .into());
    }
    let program = root().join("target/tools/bin/otelcol");
    let mut go = idle("go");
    go.current_dir(root().join("tests/collector")).env("CGO_ENABLED", "0");
    go.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"]).arg(&program).arg(".");
    succeed(&mut go).map_err(|error| format!("failed to build the collector: {error}"))?;
    Ok(program)
}
