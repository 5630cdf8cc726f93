//! Kubernetes' programs and how each is started.

use std::path::Path;

use super::{NODE, PODS, SERVICES, certificates::NODE_NAME, holder::Holder};
use crate::cluster::tools;

/// What decides: store, API, controllers, scheduler.
pub(super) fn control_plane(holder: &Holder, state: &Path) -> Result<(), String> {
    let pki = state.join("pki");
    let pki = pki.display();
    let configs = state.join("kubeconfig");
    let configs = configs.display();
    let start = |name: &str, flags: &str| {
        let flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
        holder.spawn(&tools::folder().join(name), &flags)
    };
    // A test cluster may lose its data, and waits for no disk.
    start(
        "etcd",
        "--unsafe-no-fsync --data-dir=/var/lib/etcd --log-level=warn
         --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
         --listen-peer-urls=http://127.0.0.1:2380",
    )?;
    start(
        "kube-apiserver",
        &format!(
            "--etcd-servers=http://127.0.0.1:2379 --advertise-address={NODE} --secure-port=6443
             --tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key
             --client-ca-file={pki}/ca.crt --cert-dir=/run/kubernetes
             --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged
             --service-account-issuer=https://kubernetes.default.svc.cluster.local
             --service-account-key-file={pki}/service-accounts.pub
             --service-account-signing-key-file={pki}/service-accounts.key
             --service-cluster-ip-range={SERVICES}
             --kubelet-certificate-authority={pki}/ca.crt --kubelet-preferred-address-types=InternalIP
             --kubelet-client-certificate={pki}/kubelet-client.crt --kubelet-client-key={pki}/kubelet-client.key
             --requestheader-client-ca-file={pki}/front-proxy-ca.crt
             --requestheader-allowed-names=front-proxy-client
             --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group
             --requestheader-extra-headers-prefix=X-Remote-Extra-
             --proxy-client-cert-file={pki}/front-proxy.crt --proxy-client-key-file={pki}/front-proxy.key"
        ),
    )?;
    // An autoscaler that decides within seconds, so that a test can watch it.
    start(
        "kube-controller-manager",
        &format!(
            "--kubeconfig={configs}/controller-manager.json --leader-elect=false
             --root-ca-file={pki}/ca.crt --service-account-private-key-file={pki}/service-accounts.key
             --use-service-account-credentials --allocate-node-cidrs --cluster-cidr={PODS}
             --service-cluster-ip-range={SERVICES} --cert-dir=/run/kubernetes
             --horizontal-pod-autoscaler-sync-period=5s
             --horizontal-pod-autoscaler-downscale-stabilization=15s
             --horizontal-pod-autoscaler-cpu-initialization-period=5s"
        ),
    )?;
    start("kube-scheduler", &format!("--kubeconfig={configs}/scheduler.json --leader-elect=false"))
}

/// What runs pods and routes to them.
pub(super) fn node(holder: &Holder, state: &Path) -> Result<(), String> {
    let start = |name: &Path, flags: &[String]| holder.spawn(name, flags);
    start(Path::new("containerd"), &[format!("--config={}", state.join("containerd.toml").display())])?;
    start(
        &tools::folder().join("kubelet"),
        &[
            format!("--config={}", state.join("kubelet.json").display()),
            format!("--kubeconfig={}", state.join("kubeconfig/kubelet.json").display()),
            format!("--hostname-override={NODE_NAME}"),
            format!("--node-ip={NODE}"),
        ],
    )?;
    start(
        &tools::folder().join("kube-proxy"),
        &[
            format!("--config={}", state.join("proxy.json").display()),
            format!("--hostname-override={NODE_NAME}"),
        ],
    )?;
    Ok(())
}
