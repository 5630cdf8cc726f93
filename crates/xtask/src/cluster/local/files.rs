//! Configuration files of the cluster's programs, and its network.

use std::path::Path;

use serde_json::{Value, json};

use super::{CONTROL_GROUP, DNS_SERVICE, NODE, PODS, holder::Holder};
use crate::run::succeed;

/// Writes a file, and creates its folder if it is missing.
pub(super) fn write_file(path: &Path, text: &str) -> Result<(), String> {
    let describe = |error| format!("failed to write {}: {error}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(describe)?;
    }
    std::fs::write(path, text).map_err(describe)
}

/// Writes all configuration files.
pub(super) fn write(state: &Path) -> Result<(), String> {
    for name in ["admin", "controller-manager", "scheduler", "kubelet", "proxy"] {
        write_file(&state.join(format!("kubeconfig/{name}.json")), &kubeconfig(state, name).to_string())?;
    }
    write_file(&state.join("cni/10-bridge.conflist"), &bridge().to_string())?;
    write_file(&state.join("containerd.toml"), &containerd(state))?;
    write_file(&state.join("kubelet.json"), &kubelet(state).to_string())?;
    write_file(&state.join("proxy.json"), &proxy(state).to_string())?;
    // Pods with the DNS settings of the node have no DNS server.
    write_file(&state.join("resolv.conf"), "")
}

fn kubeconfig(state: &Path, name: &str) -> Value {
    let pki = state.join("pki");
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "phase6",
        "clusters": [{ "name": "phase6", "cluster": {
            "server": format!("https://{NODE}:6443"), "certificate-authority": pki.join("ca.crt") } }],
        "users": [{ "name": name, "user": {
            "client-certificate": pki.join(format!("{name}.crt")), "client-key": pki.join(format!("{name}.key")) } }],
        "contexts": [{ "name": "phase6", "context": { "cluster": "phase6", "user": name } }],
    })
}

fn bridge() -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "bridge",
        "plugins": [
            { "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
              "ipam": { "type": "host-local", "ranges": [[{ "subnet": PODS }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

fn containerd(state: &Path) -> String {
    let networks = state.join("cni");
    let networks = networks.display();
    // Without `restrict_oom_score_adj` runc fails where root lacks CAP_SYS_RESOURCE.
    format!(
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/phase6-test/pause:1"
disable_apparmor = true
restrict_oom_score_adj = true
disable_hugetlb_controller = true
tolerate_missing_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{networks}"
"#
    )
}

fn kubelet(state: &Path) -> Value {
    let pki = state.join("pki");
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": { "x509": { "clientCAFile": pki.join("ca.crt") }, "anonymous": { "enabled": false } },
        "tlsCertFile": pki.join("kubelet.crt"), "tlsPrivateKeyFile": pki.join("kubelet.key"),
        "cgroupDriver": "cgroupfs", "cgroupRoot": format!("/{CONTROL_GROUP}"), "failCgroupV1": false,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [DNS_SERVICE], "clusterDomain": "cluster.local", "resolvConf": state.join("resolv.conf"),
        "volumePluginDir": "/var/lib/kubelet/plugins-of-volumes",
        "enforceNodeAllocatable": [], "localStorageCapacityIsolation": false, "failSwapOn": false,
        // A nearly full disk of the machine must not evict the pods of a test.
        "evictionHard": { "memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%",
                          "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%" },
        "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
        // Mounted ConfigMaps are updated within seconds instead of a minute.
        "syncFrequency": "10s",
        "maxPods": 250, "registryPullQPS": 0,
    })
}

fn proxy(state: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "iptables", "clusterCIDR": PODS, "bindAddress": "0.0.0.0",
        "clientConnection": { "kubeconfig": state.join("kubeconfig/proxy.json") },
        // The connection tracking limits belong to the machine.
        "conntrack": { "maxPerCore": 0, "min": 0 },
        "iptables": { "minSyncPeriod": "100ms" },
    })
}

/// Sets up the network: the address of the node, and the default route that the programs expect, which leads
/// nowhere.
pub(super) fn set_up_network(holder: &Holder) -> Result<(), String> {
    let node = format!("{NODE}/24");
    for words in [
        "link set lo up",
        "link add node0 type veth peer name nowhere0",
        "link set nowhere0 up",
        "link set node0 up",
        &format!("address add {node} dev node0"),
        "route add default dev node0",
    ] {
        succeed(holder.inside(Path::new("ip")).args(words.split(' ')))?;
    }
    let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    succeed(holder.inside(Path::new("sh")).args(["-c", forward]))
}
