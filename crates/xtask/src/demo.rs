//! `cargo xtask demo`: from nothing to a fleet on a cluster.

use crate::{
    cluster::Cluster,
    e2e::load_images,
    run::{root, succeed},
};

const NEXT: &str = "
Eight services run. Try:

  cargo xtask cluster exec -- kubectl get p6
  cargo xtask cluster exec -- kubectl patch p6 budget --type merge -p '{\"spec\":{\"rateLimit\":{\"capacity\":50}}}'
  cargo xtask cluster exec -- kubectl wait --for=condition=PolicyApplied p6/budget
  cargo xtask cluster exec -- kubectl describe p6 budget
  cargo xtask cluster down
";

/// Starts a cluster if need be, and installs what is here with the demo's values.
pub(crate) fn run() -> Result<(), String> {
    let cluster = Cluster::of_this_machine();
    cluster.up()?;
    let images = load_images(&cluster)?;
    let image = |wanted: &str| {
        let found = images.iter().find(|(variable, _)| *variable == wanted);
        found.map(|(_, reference)| reference.clone()).ok_or(format!("no image is made for {wanted}"))
    };
    let phase6 = image("PHASE6_E2E_IMAGE")?;
    let (repository, tag) = phase6.rsplit_once(':').ok_or("an image's name has a tag")?;
    cluster.kubectl(&["apply", "-f", &root().join("crds").to_string_lossy()])?;
    let mut helm = cluster.command("helm")?;
    helm.args(["upgrade", "--install", "phase6", "--force-conflicts", "--set", "demo.enabled=true"]);
    for value in [
        format!("image.repository={repository}"),
        format!("image.tag={tag}"),
        format!("demo.redisImage={}", image("PHASE6_E2E_REDIS")?),
        format!("demo.postgresImage={}", image("PHASE6_E2E_POSTGRES")?),
    ] {
        helm.args(["--set", &value]);
    }
    succeed(helm.arg(root().join("charts/phase6")))?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "p6", "--all", "--timeout=120s"])?;
    cluster.kubectl(&["wait", "--for=condition=PolicyApplied", "p6", "--all", "--timeout=60s"])?;
    cluster.kubectl(&["get", "p6"])?;
    println!("{NEXT}");
    Ok(())
}
