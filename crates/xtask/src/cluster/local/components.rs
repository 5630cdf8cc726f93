//! The programs of the cluster and their command lines.

use std::path::Path;

use super::{NODE, PODS, SERVICES, certificates::NODE_NAME, holder::Holder};
use crate::cluster::tools;

/// Client port of etcd.
pub(super) const ETCD_PORT: u16 = 2379;

/// Starts a program with flags, none of which contains a space.
fn start(holder: &Holder, program: &Path, flags: &str) -> Result<(), String> {
    let flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
    holder.spawn(program, &flags)
}

/// Starts etcd without syncs to disk: a test cluster may lose its data.
pub(super) fn start_etcd(holder: &Holder) -> Result<(), String> {
    start(
        holder,
        &tools::folder().join("etcd"),
        "--unsafe-no-fsync --data-dir=/var/lib/etcd --log-level=warn
         --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
         --listen-peer-urls=http://127.0.0.1:2380",
    )
}

/// Starts the API server.
pub(super) fn start_api_server(holder: &Holder, state: &Path) -> Result<(), String> {
    let pki = state.join("pki");
    let pki = pki.display();
    start(
        holder,
        &tools::folder().join("kube-apiserver"),
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
    )
}

/// Starts the controller manager and the scheduler.
pub(super) fn start_controllers(holder: &Holder, state: &Path) -> Result<(), String> {
    let pki = state.join("pki");
    let pki = pki.display();
    let configs = state.join("kubeconfig");
    let configs = configs.display();
    // The autoscaler decides within seconds instead of minutes, so that a test can wait for it.
    start(
        holder,
        &tools::folder().join("kube-controller-manager"),
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
    start(
        holder,
        &tools::folder().join("kube-scheduler"),
        &format!("--kubeconfig={configs}/scheduler.json --leader-elect=false"),
    )
}

/// Starts containerd.
pub(super) fn start_containerd(holder: &Holder, state: &Path) -> Result<(), String> {
    start(holder, Path::new("containerd"), &format!("--config={}", state.join("containerd.toml").display()))
}

/// Starts kubelet and kube-proxy.
pub(super) fn start_node(holder: &Holder, state: &Path) -> Result<(), String> {
    let state = state.display();
    start(
        holder,
        &tools::folder().join("kubelet"),
        &format!(
            "--config={state}/kubelet.json --kubeconfig={state}/kubeconfig/kubelet.json
             --hostname-override={NODE_NAME} --node-ip={NODE}"
        ),
    )?;
    start(
        holder,
        &tools::folder().join("kube-proxy"),
        &format!("--config={state}/proxy.json --hostname-override={NODE_NAME}"),
    )
}
