//! From the first install to the last uninstall.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use serde_json::json;
use testbed::{helm, process, wait};

use crate::world::{OPERATOR, PIPELINE, PIPELINES, SOON, World};

const DEFINITION: &str = "analyticspipelines.analyticspipeline.dev";

/// The chart as an earlier version would have been: its definition lacks a column.
pub(crate) async fn an_older_chart_is_installed_and_events_flow(world: &World) -> Result<()> {
    let chart = older_chart(world.folder.path()).await?;
    let said = world.helm(&["install", "analytics"], Some(&chart), &[]).await?;
    for hint in
        ["kubectl rollout status deployment/analytics-controller", "kubectl wait --for=condition=Ready"]
    {
        ensure!(said.contains(hint), "the notes lack `{hint}`:\n{said}");
    }
    ensure!(
        !columns(world).await?.contains(&"Rate".to_owned()),
        "the older definition has the column already"
    );
    world.apply(json!({})).await?;
    world.ready().await?;
    world.events_flow(1, 500).await
}

pub(crate) async fn an_upgrade_brings_the_new_definition_and_leaves_consumers_alone(
    world: &World,
) -> Result<()> {
    let before = world.consumers().await?;
    ensure!(!before.is_empty(), "no consumers run");
    world
        .helm(&["upgrade", "analytics"], Some(&helm::chart()), &["replicas=2", "logging.level=debug"])
        .await?;
    ensure!(columns(world).await?.contains(&"Rate".to_owned()), "the definition was not upgraded");
    world.events_flow(2, 500).await?;
    world.ready().await?;
    let after = world.consumers().await?;
    ensure!(
        before == after,
        "consumers were replaced by an upgrade of the operator: {before:?}, then {after:?}"
    );
    Ok(())
}

/// A wide range for a while, a rotated Secret, and one consumer at most in the end.
pub(crate) async fn every_kind_of_object_is_changed_and_removed(world: &World) -> Result<()> {
    let wide = json!({"scaling": {"mode": "Fixed", "replicas": 2}, "networkPolicy": {"mode": "Enabled"}});
    world.apply(wide).await?;
    world.consumers_become(2).await?;
    world.ready().await?;
    let policies: Api<NetworkPolicy> = Api::namespaced(world.client.clone(), PIPELINES);
    policies.get(&format!("{PIPELINE}-consumer")).await.context("there is no NetworkPolicy")?;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(world.client.clone(), PIPELINES);
    let name = format!("{PIPELINE}-consumer");
    budgets.get(&name).await.context("two consumers have no PodDisruptionBudget")?;

    let jobs: Api<Job> = Api::namespaced(world.client.clone(), PIPELINES);
    let names = || async {
        let items = jobs.list(&ListParams::default()).await?.items;
        anyhow::Ok(items.into_iter().filter_map(|job| job.metadata.name).collect::<Vec<_>>())
    };
    let before = names().await?;
    world.write_database_secret("?application_name=rotated").await?;
    wait::until_true("another migration replaces the first one", SOON, || async {
        let after = names().await?;
        ensure!(after.len() == 1 && after != before, "{before:?}, then {after:?}");
        Ok(true)
    })
    .await?;
    world.ready().await?;

    world.apply(json!({"scaling": {"mode": "Lag", "maxReplicas": 1}})).await?;
    world.consumers_become(1).await?;
    wait::until_true("what is no longer wanted goes", SOON, || async {
        Ok(budgets.get_opt(&name).await?.is_none() && policies.get_opt(&name).await?.is_none())
    })
    .await?;
    world.events_flow(3, 500).await
}

pub(crate) async fn a_rollback_goes_back(world: &World) -> Result<()> {
    world.helm(&["rollback", "analytics", "1"], None, &[]).await?;
    let controllers = wait::until("one controller is left", SOON, || async {
        let pods = world.pods(OPERATOR, "analytics-controller").await?;
        Ok((pods.len() == 1).then_some(pods))
    });
    controllers.await?;
    ensure!(!columns(world).await?.contains(&"Rate".to_owned()), "the definition was not rolled back");
    world.events_flow(4, 200).await
}

pub(crate) async fn an_uninstall_leaves_pipelines_running(world: &World) -> Result<()> {
    world.helm(&["uninstall", "analytics"], None, &[]).await?;
    let left = "deployments,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings";
    let words = [
        "get",
        left,
        "--all-namespaces",
        "--selector=app.kubernetes.io/name=analytics-controller",
        "-o=name",
    ];
    let left = world.bed.cluster.kubectl(&words).await?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    ensure!(!columns(world).await?.is_empty(), "the definition is gone");
    ensure!(world.consumers().await?.len() == 1, "the consumers are gone");
    world.events_flow(5, 200).await
}

/// Installed again, over the definition that was left, for one namespace and one Secret.
pub(crate) async fn with_named_namespaces_and_secrets_nothing_else_can_be_read(world: &World) -> Result<()> {
    world.bed.cluster.create_namespace("elsewhere").await?;
    let values = ["watchNamespaces={analytics}", "rbac.secretNames={analytics-db}"];
    world.helm(&["install", "analytics"], Some(&helm::chart()), &values).await?;
    world
        .apply_in("elsewhere", json!({"source": {"bootstrapServers": "kafka:9092", "topic": "other"}}))
        .await?;
    world.apply(json!({"scaling": {"mode": "Fixed", "replicas": 2}})).await?;
    world.consumers_become(2).await?;
    world.ready().await?;
    world.events_flow(6, 200).await?;

    let table = [
        ("get", "secret/analytics-db", PIPELINES, true),
        ("get", "secret/other", PIPELINES, false),
        ("list", "secrets", PIPELINES, false),
        ("get", "secret/analytics-db", "elsewhere", false),
        ("patch", "deployments", "elsewhere", false),
        ("list", "analyticspipelines", "elsewhere", false),
        ("create", "deployments", OPERATOR, false),
    ];
    for (verb, what, namespace, allowed) in table {
        let found = can(world, verb, what, namespace).await?;
        ensure!(found == allowed, "{verb} {what} in {namespace}: {found}");
    }
    let words = ["-n", "elsewhere", "get", "apl", PIPELINE, "-o=jsonpath={.status}"];
    let status = world.bed.cluster.kubectl(&words).await?;
    ensure!(status.is_empty(), "a pipeline outside the watched namespace was worked on: {status}");
    Ok(())
}

async fn can(world: &World, verb: &str, what: &str, namespace: &str) -> Result<bool> {
    let account = format!("--as=system:serviceaccount:{OPERATOR}:analytics-controller");
    let mut command = world.bed.cluster.kubectl_command()?;
    command.args(["auth", "can-i", verb, what, "-n", namespace, &account]);
    let answer = tokio::task::spawn_blocking(move || command.output()).await??;
    match String::from_utf8_lossy(&answer.stdout).trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => anyhow::bail!("kubectl auth can-i said `{other}`"),
    }
}

async fn columns(world: &World) -> Result<Vec<String>> {
    let api: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let versions = api.get(DEFINITION).await?.spec.versions;
    let columns =
        versions.into_iter().flat_map(|version| version.additional_printer_columns.unwrap_or_default());
    Ok(columns.map(|column| column.name).collect())
}

async fn older_chart(folder: &Path) -> Result<PathBuf> {
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(helm::chart()).arg(folder);
    process::output(copy).await?;
    let chart = folder.join("analytics-pipeline");
    let file = chart.join("files/crds/analyticspipelines.yaml");
    let mut definition: serde_json::Value = serde_saphyr::from_str(&std::fs::read_to_string(&file)?)?;
    let columns = definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array_mut();
    columns.context("no columns")?.retain(|column| column["name"] != "Rate");
    std::fs::write(&file, definition.to_string())?;
    Ok(chart)
}
