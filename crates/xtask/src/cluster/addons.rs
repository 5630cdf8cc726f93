//! What a cluster needs beyond Kubernetes' own programs: names of Services, and metrics for autoscaling.

use std::path::PathBuf;

use super::{Cluster, tools};
use crate::{oci::Image, run::root};

/// Installs the add-ons that are missing, and waits until they serve.
pub(super) fn install(cluster: &Cluster) -> Result<(), String> {
    // kind has a CoreDNS.
    let names: &[&str] = match cluster {
        Cluster::Kind(_) => &["metrics-server"],
        Cluster::Local(_) => &["coredns", "metrics-server"],
    };
    let found =
        cluster.command("kubectl")?.args(["-n", "kube-system", "get", "deployment"]).args(names).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    cluster.load_image(&image("addons", &["coredns", "metrics-server"])?)?;
    for name in names {
        let manifest = root().join("tests/cluster/addons").join(format!("{name}.yaml"));
        cluster.kubectl(&["apply", "-f", &manifest.to_string_lossy()])?;
    }
    for name in names {
        let deployment = format!("deployment/{name}");
        cluster.kubectl(&["-n", "kube-system", "rollout", "status", &deployment, "--timeout=60s"])?;
    }
    Ok(())
}

/// Makes an image of one program, which is called by `names`.
pub(super) fn image(image: &str, names: &[&str]) -> Result<PathBuf, String> {
    let program = tools::provide(names[0])?;
    let program = program.canonicalize().map_err(|error| format!("{}: {error}", program.display()))?;
    let archive = program.with_extension("tar");
    if archive.is_file() {
        return Ok(archive);
    }
    let path = format!("/{image}");
    let mut made = Image::new(&format!("localhost/phase6-test/{image}:1"))
        .entrypoint(&[&format!("/{}", names[0])])
        .file(&path, &program)?;
    for name in names.iter().filter(|name| **name != image) {
        made = made.link(&format!("/{name}"), &path);
    }
    made.write(&archive)?;
    Ok(archive)
}
