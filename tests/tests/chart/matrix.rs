//! The chart rendered with many values: what must hold for each, and what each changes.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::helm;

/// What the chart installs when nothing is said.
const DEFAULT: [&str; 10] = [
    "CustomResourceDefinition/analyticspipelines.analyticspipeline.dev",
    "ClusterRole/analytics-controller",
    "ClusterRole/analytics-controller-edit",
    "ClusterRole/analytics-controller-view",
    "ClusterRoleBinding/analytics-controller",
    "Deployment/analytics-controller",
    "Role/analytics-controller-leader-election",
    "RoleBinding/analytics-controller-leader-election",
    "Service/analytics-controller",
    "ServiceAccount/analytics-controller",
];

const CLUSTER_SCOPED: [&str; 3] = ["CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"];

/// Values, what they add to [`DEFAULT`], and what they take away.
fn matrix() -> Vec<(Value, &'static [&'static str], &'static [&'static str])> {
    vec![
        (json!({}), &[], &[]),
        (
            json!({"crds": {"enabled": false}}),
            &[],
            &["CustomResourceDefinition/analyticspipelines.analyticspipeline.dev"],
        ),
        (json!({"crds": {"keep": false}}), &[], &[]),
        (
            json!({"rbac": {"create": false}}),
            &[],
            &[
                "ClusterRole/analytics-controller",
                "ClusterRole/analytics-controller-edit",
                "ClusterRole/analytics-controller-view",
                "ClusterRoleBinding/analytics-controller",
                "Role/analytics-controller-leader-election",
                "RoleBinding/analytics-controller-leader-election",
            ],
        ),
        (
            json!({"rbac": {"aggregateUserRoles": false}}),
            &[],
            &["ClusterRole/analytics-controller-edit", "ClusterRole/analytics-controller-view"],
        ),
        (
            json!({"watchNamespaces": ["shop", "ads"]}),
            &[
                "Role/analytics-controller in shop",
                "Role/analytics-controller in ads",
                "RoleBinding/analytics-controller in shop",
                "RoleBinding/analytics-controller in ads",
            ],
            &["ClusterRole/analytics-controller", "ClusterRoleBinding/analytics-controller"],
        ),
        (
            json!({"serviceAccount": {"create": false, "name": "given"}}),
            &[],
            &["ServiceAccount/analytics-controller"],
        ),
        (json!({"replicas": 2}), &["PodDisruptionBudget/analytics-controller"], &[]),
        (json!({"replicas": 2, "podDisruptionBudget": {"enabled": false}}), &[], &[]),
        (json!({"serviceMonitor": {"enabled": true}}), &["ServiceMonitor/analytics-controller"], &[]),
        (
            json!({"prometheusRule": {"enabled": true, "labels": {"release": "kube-prometheus-stack"}}}),
            &["PrometheusRule/analytics-controller"],
            &[],
        ),
        (json!({"networkPolicy": {"enabled": true}}), &["NetworkPolicy/analytics-controller"], &[]),
        (
            json!({"dashboards": {"enabled": true, "folder": "Analytics"}}),
            &[
                "ConfigMap/analytics-controller-event-processing-overview",
                "ConfigMap/analytics-controller-event-type-distribution",
                "ConfigMap/analytics-controller-service-health",
                "ConfigMap/analytics-controller-user-activity-heatmap",
            ],
            &[],
        ),
        (
            json!({"extraObjects": [
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra", "namespace": "x",
                    "labels": {"app.kubernetes.io/part-of": "analytics-pipeline"}}},
            ]}),
            &["ConfigMap/analytics-extra in x"],
            &[],
        ),
        (
            everything(),
            &["NetworkPolicy/analytics-controller", "PodDisruptionBudget/analytics-controller"],
            &[],
        ),
    ]
}

/// Every value that shapes the pod, set.
fn everything() -> Value {
    json!({
        "commonLabels": {"team": "data"},
        "image": {"registry": "registry.example.com", "repository": "team/analytics", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}],
        "consumerImage": "registry.example.com/team/consumer:4",
        "replicas": 3,
        "rbac": {"secretNames": ["analytics-db", "kafka-user"]},
        "serviceAccount": {"annotations": {"example.com/role": "reader"}},
        "leaderElection": {"leaseName": "analytics-lease"},
        "logging": {"level": "debug", "format": "json"},
        "pollIntervalSeconds": 15,
        "kafkaTimeoutSeconds": 3,
        "concurrency": 4,
        "pipelineMonitors": {"labels": {"release": "prometheus", "team": "data"}},
        "runbookBaseUrl": "https://wiki.example/analytics",
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://otel:4317"}],
        "resources": {"requests": {"cpu": 1, "memory": "128Mi"}, "limits": {"memory": "128Mi", "ephemeral-storage": "64Mi"}},
        "podLabels": {"network": "open"},
        "podAnnotations": {"sidecar.istio.io/inject": "false"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high",
        "terminationGracePeriodSeconds": 10,
        "podDisruptionBudget": {"maxUnavailable": "50%"},
        "metrics": {"port": 9191},
        "networkPolicy": {
            "enabled": true,
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "kafkaPorts": [9094],
            "extraEgress": [{"ports": [{"protocol": "TCP", "port": 4317}]}],
        },
    })
}

#[tokio::test]
async fn each_value_renders_what_it_promises_and_every_object_keeps_the_rules() -> Result<()> {
    for (values, added, removed) in matrix() {
        let text = helm::render(&values).await?;
        let objects = helm::objects(&text)?;
        check_objects(&objects).with_context(|| format!("with {values}"))?;
        check_rules_are_explained(&text).with_context(|| format!("with {values}"))?;
        let mut expected: BTreeSet<String> = DEFAULT.iter().map(ToString::to_string).collect();
        expected.retain(|name| !removed.contains(&name.as_str()));
        expected.extend(added.iter().map(ToString::to_string));
        let found: BTreeSet<String> = objects.iter().map(describe).collect();
        assert_eq!(found, expected, "with {values}");
        assert_eq!(found.len(), objects.len(), "an object is rendered twice with {values}");
    }
    Ok(())
}

#[tokio::test]
async fn the_chart_passes_helms_own_lint() -> Result<()> {
    let chart = helm::chart();
    for (values, ..) in matrix() {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), values.to_string())?;
        let words = ["lint", "--strict", "--quiet", "--values"];
        let mut command = helm::command()?;
        command.args(words).arg(file.path()).arg(&chart);
        testbed::process::output(command).await.with_context(|| format!("with {values}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn an_image_is_named_by_registry_and_by_tag_or_digest() -> Result<()> {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let by_digest = format!("analytics-pipeline@{digest}");
    let table = [
        (json!({}), concat!("analytics-pipeline:", env!("CARGO_PKG_VERSION"))),
        (json!({"image": {"tag": "dev"}}), "analytics-pipeline:dev"),
        (json!({"image": {"registry": "r.example:5000", "tag": "1"}}), "r.example:5000/analytics-pipeline:1"),
        (json!({"image": {"digest": digest, "tag": "1"}}), by_digest.as_str()),
    ];
    for (values, expected) in table {
        let objects = helm::objects(&helm::render(&values).await?)?;
        let pod = pod(&objects)?;
        assert_eq!(pod["containers"][0]["image"], expected);
        assert_eq!(variable(pod, "CONSUMER_IMAGE"), expected, "consumers run the same image");
    }
    Ok(())
}

#[tokio::test]
async fn every_value_of_the_pod_arrives_there() -> Result<()> {
    let objects = helm::objects(&helm::render(&everything()).await?)?;
    let pod = pod(&objects)?;
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "registry.example.com/team/analytics:1.2.3");
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["resources"]["limits"]["ephemeral-storage"], "64Mi");
    assert_eq!(container["ports"][0]["containerPort"], 9191);
    for (name, value) in [
        ("CONSUMER_IMAGE", "registry.example.com/team/consumer:4"),
        ("LEASE_NAME", "analytics-lease"),
        ("METRICS_PORT", "9191"),
        ("POLL_INTERVAL_SECONDS", "15"),
        ("KAFKA_TIMEOUT_SECONDS", "3"),
        ("CONCURRENCY", "4"),
        ("MONITOR_LABELS", "release=prometheus,team=data"),
        ("RUNBOOK_BASE_URL", "https://wiki.example/analytics"),
        ("LOG_LEVEL", "debug"),
        ("LOG_FORMAT", "json"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317"),
    ] {
        assert_eq!(variable(pod, name), value, "{name}");
    }
    assert_eq!(pod["imagePullSecrets"][0]["name"], "registry");
    assert_eq!(pod["nodeSelector"]["disk"], "ssd");
    assert_eq!(pod["tolerations"][0]["key"], "dedicated");
    assert!(pod["affinity"]["podAntiAffinity"].is_object());
    assert_eq!(pod["topologySpreadConstraints"][0]["topologyKey"], "zone");
    assert_eq!(pod["priorityClassName"], "high");
    assert_eq!(pod["terminationGracePeriodSeconds"], 10);
    let template = &find(&objects, "Deployment")?["spec"]["template"]["metadata"];
    assert_eq!(template["labels"]["network"], "open");
    assert_eq!(template["labels"]["team"], "data");
    assert_eq!(template["annotations"]["sidecar.istio.io/inject"], "false");
    let secrets = rules(&objects).find(|rule| rule["resources"] == json!(["secrets"])).context("no rule")?;
    assert_eq!(secrets["resourceNames"], json!(["analytics-db", "kafka-user"]));
    let lease = rules(&objects).find(|rule| rule["resourceNames"] == json!(["analytics-lease"]));
    assert!(lease.is_some(), "the right to the Lease follows its name");
    assert_eq!(find(&objects, "PodDisruptionBudget")?["spec"]["maxUnavailable"], "50%");
    Ok(())
}

/// Removing the definition would take every pipeline with it.
#[tokio::test]
async fn the_definition_survives_an_uninstall_unless_told_otherwise() -> Result<()> {
    for (values, policy) in [(json!({}), json!("keep")), (json!({"crds": {"keep": false}}), Value::Null)] {
        let objects = helm::objects(&helm::render(&values).await?)?;
        let definition = find(&objects, "CustomResourceDefinition")?;
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], policy);
        let version = &definition["spec"]["versions"][0];
        let maximum = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["delivery"]["properties"]
            ["maxEventBytes"]["maximum"];
        assert_eq!(*maximum, json!(67_108_864), "numbers of the schema arrive as they are");
    }
    Ok(())
}

#[tokio::test]
async fn watched_namespaces_are_the_only_ones_in_which_anything_is_granted() -> Result<()> {
    let objects = helm::objects(&helm::render(&json!({"watchNamespaces": ["shop"]})).await?)?;
    assert_eq!(variable(pod(&objects)?, "WATCH_NAMESPACE"), "shop");
    let bindings = objects.iter().filter(|object| object["kind"] == "RoleBinding");
    let namespaces: BTreeSet<_> =
        bindings.filter_map(|object| object["metadata"]["namespace"].as_str()).collect();
    assert_eq!(namespaces, BTreeSet::from(["analytics-system", "shop"]));
    Ok(())
}

fn check_objects(objects: &[Value]) -> Result<()> {
    for object in objects {
        let name = describe(object);
        let scoped = object["metadata"]["namespace"].is_string();
        let cluster = CLUSTER_SCOPED.contains(&object["kind"].as_str().unwrap_or_default());
        ensure!(scoped != cluster, "{name}: a namespace is missing or out of place");
        let part = &object["metadata"]["labels"]["app.kubernetes.io/part-of"];
        ensure!(*part == "analytics-pipeline", "{name} lacks the standard labels");
    }
    for rule in rules(objects) {
        ensure!(!rule.to_string().contains('*'), "a wildcard: {rule}");
        ensure!(!rule["verbs"].as_array().is_none_or(Vec::is_empty), "no verbs: {rule}");
    }
    check_restricted(pod(objects)?)
}

/// The parts of Pod Security "restricted" that a manifest has to say itself.
fn check_restricted(pod: &Value) -> Result<()> {
    ensure!(pod["securityContext"]["runAsNonRoot"] == true);
    ensure!(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault");
    ensure!(pod["volumes"].is_null() && pod["hostNetwork"].is_null() && pod["hostPID"].is_null());
    for container in pod["containers"].as_array().context("no containers")? {
        let context = &container["securityContext"];
        ensure!(context["allowPrivilegeEscalation"] == false && context["readOnlyRootFilesystem"] == true);
        ensure!(context["capabilities"] == json!({"drop": ["ALL"]}));
    }
    Ok(())
}

/// Whoever reviews the permissions reads the manifest, not this repository.
fn check_rules_are_explained(text: &str) -> Result<()> {
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("- apiGroups:")) {
        ensure!(lines[index - 1].starts_with("# "), "line {index}: `{line}` has no reason");
    }
    Ok(())
}

fn describe(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let name = format!("{}/{}", text(&object["kind"]), text(&metadata["name"]));
    match metadata["namespace"].as_str() {
        None | Some("analytics-system") => name,
        Some(namespace) => format!("{name} in {namespace}"),
    }
}

fn find<'a>(objects: &'a [Value], kind: &str) -> Result<&'a Value> {
    objects.iter().find(|object| object["kind"] == kind).with_context(|| format!("no {kind}"))
}

fn pod(objects: &[Value]) -> Result<&Value> {
    Ok(&find(objects, "Deployment")?["spec"]["template"]["spec"])
}

fn rules(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects
        .iter()
        .filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")))
        .flat_map(|object| object["rules"].as_array().into_iter().flatten())
}

fn variable<'a>(pod: &'a Value, name: &str) -> &'a str {
    let variables = pod["containers"][0]["env"].as_array();
    let found = variables.into_iter().flatten().find(|variable| variable["name"] == name);
    found.and_then(|variable| variable["value"].as_str()).unwrap_or_default()
}
