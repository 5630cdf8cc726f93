//! What a cluster needs beyond Kubernetes' own programs: names, and metrics for autoscaling.

use std::path::PathBuf;

use super::{Cluster, tools};
use crate::{oci::Image, run::root};

/// Installs what is missing, and waits until it serves.
pub(super) fn install(cluster: &Cluster) -> Result<(), String> {
    // kind brings its own CoreDNS.
    let names: &[&str] = match cluster {
        Cluster::Kind(_) => &["metrics-server"],
        Cluster::Local(_) => &["coredns", "metrics-server"],
    };
    let found =
        cluster.command("kubectl")?.args(["-n", "kube-system", "get", "deployment"]).args(names).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    for name in names {
        cluster.load_image(&image(name)?)?;
        let manifest = root().join("tests/cluster/addons").join(format!("{name}.yaml"));
        cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    }
    for name in names {
        let deployment = format!("deployment/{name}");
        cluster.kubectl(&["-n", "kube-system", "rollout", "status", &deployment, "--timeout=60s"])?;
    }
    Ok(())
}

/// An image of one program and nothing else.
pub(super) fn image(name: &str) -> Result<PathBuf, String> {
    let program = tools::provide(name)?;
    // The file that the name leads to bears its version.
    let real = program.canonicalize().map_err(|error| format!("{}: {error}", program.display()))?;
    let archive =
        real.with_file_name(format!("{}.tar", real.file_name().unwrap_or_default().to_string_lossy()));
    if archive.is_file() {
        return Ok(archive);
    }
    let path = format!("/{name}");
    let image = Image::new(&format!("localhost/phase6-test/{name}:1")).entrypoint(&[&path]);
    image.file(&path, &program)?.write(&archive)?;
    Ok(archive)
}
