//! Configuration files of containerd, its network and the kubelet.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use crate::{Node, cache};

pub(super) fn containerd_file(node: &Node) -> PathBuf {
    node.folder().join("containerd.toml")
}

pub(super) fn kubelet_file(node: &Node) -> PathBuf {
    node.folder().join("kubelet.json")
}

fn network_folder(node: &Node) -> PathBuf {
    node.folder().join("cni")
}

pub(super) fn write(node: &Node) -> Result<()> {
    fs::create_dir(network_folder(node))?;
    fs::write(network_folder(node).join("10-bridge.conflist"), network(node))?;
    fs::write(containerd_file(node), containerd(node)?)?;
    fs::write(kubelet_file(node), kubelet(node))?;
    Ok(())
}

/// Pods hang on one bridge, which is their gateway; addresses are handed out from a folder that ends with the node.
fn network(node: &Node) -> String {
    let ipam = json!({
        "type": "host-local",
        "dataDir": "/run/cni-addresses",
        "ranges": [[{"subnet": node.addresses().pods().to_string(), "gateway": node.addresses().bridge()}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {"type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true, "ipam": ipam},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

fn containerd(node: &Node) -> Result<String> {
    let root = node.folder().join("containerd");
    let shim = cache::part("containerd")?.join("containerd-shim-runc-v2");
    let (root, shim, network) = (root.display(), shim.display(), network_folder(node));
    let (network, pause) = (network.display(), super::parts::PAUSE_IMAGE);
    // Without the right to lower a score (CAP_SYS_RESOURCE) the kubelet's wishes for it would stop every pod.
    Ok(format!(
        r#"version = 3
root = "{root}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{network}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
runtime_path = "{shim}"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    ))
}

/// No limits on the node as a whole, no eviction: the machine belongs to others too, and is what it is.
fn kubelet(node: &Node) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": node.folder().join("identity/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "address": node.addresses().node(),
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        "failCgroupV1": false,
        "failSwapOn": false,
        "oomScoreAdj": 0,
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": false,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "podLogsDir": node.folder().join("pods"),
        "resolvConf": "",
        "registerNode": true,
        // What a person would notice as slowness: how soon a changed ConfigMap or a finished probe is seen.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
    })
    .to_string()
}
