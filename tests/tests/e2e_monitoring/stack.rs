//! Prometheus Operator and the Prometheus that it runs.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde_json::{Value, json};
use testbed::{Prometheus, cache, wait};

use crate::world::{RELEASE, SOON, World, address};

/// Namespace of both.
pub(crate) const NAMESPACE: &str = "monitoring";

/// Installs the definitions, the operator and a Prometheus that chooses by a label.
pub(crate) async fn install(world: &World) -> Result<()> {
    let cluster = &world.bed.cluster;
    let definitions = cache::part("prometheus_operator")?.join("crds");
    let definitions = definitions.to_str().context("a path that is no text")?;
    cluster.kubectl(&["apply", "--server-side", "-f", definitions]).await?;
    let wait = ["wait", "--for=condition=Established", "--timeout=120s", "-f", definitions];
    cluster.kubectl(&wait).await?;
    cluster.create_namespace(NAMESPACE).await?;
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        account("prometheus-operator"),
        // Its rights are not what is tested here.
        binding("prometheus-operator", "cluster-admin"),
        operator(cache::version("prometheus_operator")?),
        account("prometheus"),
        role(),
        binding("prometheus", "prometheus"),
        watcher(cache::version("prometheus")?),
    ]});
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), objects.to_string())?;
    let path = file.path().to_str().context("a path that is no text")?;
    cluster.kubectl(&["apply", "--server-side", "-f", path]).await.map(drop)
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": NAMESPACE}})
}

fn binding(account: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    })
}

/// What a Prometheus needs to find pods and services.
fn role() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "prometheus"},
        "rules": [
            {"apiGroups": [""], "resources": ["pods", "services", "endpoints"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
        ],
    })
}

fn operator(version: &str) -> Value {
    let image = format!("analyticspipeline.dev/prometheus-operator:{version}");
    let labels = json!({"app": "prometheus-operator"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "prometheus-operator", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "serviceAccountName": "prometheus-operator",
                    "containers": [{
                        "name": "operator", "image": image,
                        "args": [
                            format!("--prometheus-config-reloader={image}"), "--localhost=127.0.0.1",
                            "--config-reloader-cpu-limit=0", "--config-reloader-memory-limit=0",
                        ],
                    }],
                },
            },
        },
    })
}

/// A Prometheus as kube-prometheus-stack makes it: whatever carries its label, in any namespace.
fn watcher(version: &str) -> Value {
    let chosen = json!({"matchLabels": {"release": RELEASE}});
    json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus",
        "metadata": {"name": "watcher", "namespace": NAMESPACE},
        "spec": {
            "image": format!("analyticspipeline.dev/prometheus:{version}"), "version": version,
            "serviceAccountName": "prometheus", "replicas": 1, "evaluationInterval": "2s",
            "podMonitorSelector": chosen, "podMonitorNamespaceSelector": {},
            "serviceMonitorSelector": chosen, "serviceMonitorNamespaceSelector": {},
            "ruleSelector": chosen, "ruleNamespaceSelector": {},
            "securityContext": {"runAsUser": 65534, "runAsNonRoot": true, "fsGroup": 65534},
        },
    })
}

/// Waits until the Prometheus of the operator answers.
pub(crate) async fn prometheus(world: &World) -> Result<Prometheus> {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), NAMESPACE);
    let pod = wait::until("the Prometheus of the operator is ready", SOON, || async {
        let pod = pods.get("prometheus-watcher-0").await?;
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let ready = conditions.into_iter().flatten();
        let ready =
            ready.filter(|condition| condition.type_ == "Ready" && condition.status == "True").count();
        ensure!(ready == 1, "{:?}", pod.status);
        Ok(Some(pod))
    })
    .await?;
    Ok(Prometheus::at(address(&pod, 9090)?))
}
