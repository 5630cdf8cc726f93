//! The `Phase6Service` resource: its type, its definition for the API server, and its reference page.
//!
//! Knows the types of Kubernetes, so only programs that talk to a cluster and developers' tools depend on
//! it; manifests are read and checked by `phase6-manifest`, from the definition that is generated here.
//! Does no I/O.

mod reference;
mod resource;

pub use reference::reference_markdown;
pub use resource::{Autoscaling, Phase6Service, Phase6ServiceSpec, Phase6ServiceStatus, PolicyStatus};

/// Returns the definition as YAML, as `kubectl apply -f crds/` applies it.
pub fn definition_yaml() -> String {
    use kube::CustomResourceExt as _;
    let body = serde_saphyr::to_string(&Phase6Service::crd()).expect("the definition is plain data");
    format!("# Generated from the types in crds/src by `cargo xtask crd`.\n{body}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schema_has_no_format_that_the_api_server_warns_about() {
        let text = super::definition_yaml();
        assert!(!text.contains("format: uint"), "unsigned formats are unknown to Kubernetes");
    }
}
