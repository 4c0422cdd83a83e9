//! The servers of a cluster: their command lines, and watching over them while they start.

use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Error, Result};

use super::identity::Identity;
use super::{ClusterOptions, config};
use crate::process::Process;
use crate::{Node, cache, wait};

/// The name of the only node.
pub(super) const NODE_NAME: &str = "node";

/// The image that `tests/setup/parts/pause.sh` makes.
pub(super) const PAUSE_IMAGE: &str = "analyticspipeline.dev/pause:1";

/// The servers started so far.
pub(super) struct Parts<'a> {
    node: &'a Node,
    identity: &'a Identity,
    kubernetes: PathBuf,
    running: Vec<Process>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(node: &'a Node, identity: &'a Identity) -> Result<Self> {
        Ok(Self { node, identity, kubernetes: cache::part("kubernetes")?, running: Vec::new() })
    }

    /// What needs nobody else: the store, the API server (which awaits the store) and the container runtime.
    pub(super) fn start_foundation(&mut self, options: &ClusterOptions) -> Result<()> {
        let mut etcd = self.node.command(cache::program("etcd")?);
        etcd.arg("--data-dir")
            .arg(self.node.folder().join("etcd"))
            .args(["--unsafe-no-fsync", "--log-level=warn"]);
        self.spawn("etcd", etcd)?;

        let mut containerd = self.node.command(cache::part("containerd")?.join("containerd"));
        containerd.arg("--config").arg(config::containerd_file(self.node));
        self.spawn("containerd", containerd)?;

        let apiserver = self.apiserver(options);
        self.spawn("kube-apiserver", apiserver)
    }

    /// What needs the API server.
    pub(super) fn start_controllers(&mut self) -> Result<()> {
        let addresses = self.node.addresses();

        let mut manager = self.kubernetes_command("kube-controller-manager");
        self.kubeconfig(&mut manager, "controller-manager");
        self.flag(&mut manager, "root-ca-file", "ca.crt");
        self.flag(&mut manager, "service-account-private-key-file", "service-account.key");
        manager.args(["--leader-elect=false", "--use-service-account-credentials=true"]);
        // Every so often the controller lifts the taint of nodes that have become ready; the default is 5 s.
        manager.arg("--node-monitor-period=500ms");
        // Its usual 20 requests a second are used up by its start, which then takes 4 s more.
        manager.args(["--kube-api-qps=200", "--kube-api-burst=400"]);
        self.spawn("kube-controller-manager", manager)?;

        let mut scheduler = self.kubernetes_command("kube-scheduler");
        self.kubeconfig(&mut scheduler, "scheduler");
        scheduler.arg("--leader-elect=false");
        self.spawn("kube-scheduler", scheduler)?;

        let mut kubelet = self.kubernetes_command("kubelet");
        self.kubeconfig(&mut kubelet, "kubelet");
        kubelet.arg("--config").arg(config::kubelet_file(self.node));
        kubelet.arg("--root-dir").arg(self.node.folder().join("kubelet"));
        kubelet.args(["--hostname-override", NODE_NAME, "--node-ip"]).arg(addresses.node().to_string());
        self.spawn("kubelet", kubelet)?;

        let mut proxy = self.kubernetes_command("kube-proxy");
        self.kubeconfig(&mut proxy, "proxy");
        proxy.args(["--proxy-mode=iptables", "--hostname-override", NODE_NAME]);
        proxy.arg(format!("--cluster-cidr={}", addresses.pods()));
        // Limits of connection tracking belong to the machine as a whole: leave them alone.
        proxy.args(["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0"]);
        proxy.args(["--conntrack-tcp-timeout-close-wait=0"]);
        self.spawn("kube-proxy", proxy)
    }

    fn apiserver(&self, options: &ClusterOptions) -> Command {
        let addresses = self.node.addresses();
        let mut command = self.kubernetes_command("kube-apiserver");
        command.args(["--etcd-servers=http://127.0.0.1:2379", "--secure-port=6443"]);
        command.args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"]);
        command.args(["--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP"]);
        command.arg(format!("--advertise-address={}", addresses.node()));
        command.arg(format!("--service-cluster-ip-range={}", addresses.services()));
        command.arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local");
        for (flag, file) in [
            ("client-ca-file", "ca.crt"),
            ("token-auth-file", "tokens.csv"),
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("kubelet-client-certificate", "kubelet-client.crt"),
            ("kubelet-client-key", "kubelet-client.key"),
            ("service-account-key-file", "service-account.pub"),
            ("service-account-signing-key-file", "service-account.key"),
        ] {
            self.flag(&mut command, flag, file);
        }
        command.args(&options.apiserver_arguments);
        command
    }

    fn kubernetes_command(&self, program: &str) -> Command {
        self.node.command(self.kubernetes.join(program))
    }

    fn kubeconfig(&self, command: &mut Command, part: &str) {
        command.arg("--kubeconfig").arg(self.identity.kubeconfig(part));
    }

    fn flag(&self, command: &mut Command, name: &str, file: &str) {
        command.arg(format!("--{name}={}", self.identity.file(file).display()));
    }

    fn spawn(&mut self, name: &str, command: Command) -> Result<()> {
        self.running.push(self.node.spawn(name, command)?);
        Ok(())
    }

    /// Waits for a condition, but no longer than every part lives.
    pub(super) async fn await_with<F>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<bool>>,
    {
        let awaited = wait::until(what, limit, || {
            let died = self.running.iter_mut().find_map(|part| part.check().err());
            let answer = look();
            async {
                match died {
                    Some(error) => Ok(Some(Err(error))),
                    None => Ok(answer.await?.then_some(Ok(()))),
                }
            }
        });
        match awaited.await {
            Ok(outcome) => outcome,
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Adds the ends of all logs to an error, since any part may be the one that others wait for.
    pub(super) fn explain(&self, error: Error) -> Error {
        let logs = self.running.iter().map(|part| format!("--- {}\n{}\n", part.name(), part.tail()));
        error.context(format!("the cluster did not start; its parts say:\n{}", logs.collect::<String>()))
    }

    pub(super) fn into_processes(self) -> Vec<Process> {
        self.running
    }
}
