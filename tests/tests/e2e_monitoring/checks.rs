//! What a cluster with Prometheus Operator must come to see.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};
use testbed::dashboards::{list, repository};
use testbed::{Prometheus, http, prometheus, wait};

use crate::world::{OPERATOR, PIPELINE, PIPELINES, RELEASE, SOON, World, address};

const KINDS: [(&str, &str); 2] = [("PodMonitor", "podmonitors"), ("PrometheusRule", "prometheusrules")];

fn api(world: &World, namespace: &str, (kind, plural): (&str, &str)) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", kind);
    Api::namespaced_with(world.client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, plural))
}

pub(crate) async fn the_pipeline_has_its_monitor_and_its_alerts(world: &World) -> Result<()> {
    for kind in KINDS {
        let api = api(world, PIPELINES, kind);
        let object =
            wait::until(kind.0, SOON, || async { Ok(Some(api.get("clicks-consumer").await?)) }).await?;
        assert_eq!(object.labels().get("release").map(String::as_str), Some(RELEASE));
        let owners: Vec<_> = object.owner_references().iter().map(|owner| owner.name.as_str()).collect();
        assert_eq!(owners, [PIPELINE]);
    }
    Ok(())
}

/// One target for each pod: a second one would double every sum.
pub(crate) async fn every_consumer_is_scraped_once(world: &World, prometheus: &Prometheus) -> Result<()> {
    wait::until_true("each consumer is a target that answers", SOON, || async {
        let pods = world.pods(PIPELINES, "analytics-consumer").await?;
        let mut expected: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        expected.sort();
        let up = prometheus.query(&format!("up{{namespace=\"{PIPELINES}\"}} == 1")).await?;
        let label = |series: &Value, name: &str| series[name].as_str().unwrap_or_default().to_owned();
        ensure!(up.iter().all(|(series, _)| label(series, "pipeline") == PIPELINE), "{up:?}");
        let mut found: Vec<String> = up.iter().map(|(series, _)| label(series, "pod")).collect();
        found.sort();
        ensure!(expected.len() == 2 && found == expected, "{found:?} instead of {expected:?}");
        let all = prometheus.query("count by (namespace, pod) (up) > 1").await?;
        ensure!(all.is_empty(), "scraped twice: {all:?}");
        Ok(true)
    })
    .await
}

/// By the ServiceMonitor of the chart.
pub(crate) async fn the_controller_is_scraped(prometheus: &Prometheus) -> Result<()> {
    wait::until_true("the controller is a target that answers", SOON, || async {
        let up = prometheus.query(&format!("up{{namespace=\"{OPERATOR}\"}}")).await?;
        ensure!(matches!(up.as_slice(), [(_, value)] if *value > 0.5), "{up:?}");
        Ok(true)
    })
    .await
}

/// Sends some more after the `sent` records of before: what Prometheus adds up is what was sent and what is stored.
pub(crate) async fn the_figures_are_those_of_the_table(
    world: &World,
    prometheus: &Prometheus,
    sent: u64,
) -> Result<()> {
    const MORE: u64 = 2_000;
    world.produce_and_await(2, MORE).await?;
    let (rows, records) = (world.rows().await? as f64, (sent + MORE) as f64);
    for (what, expression, expected) in [
        ("processed records", "sum by (pipeline) (events_processed_total{namespace=\"shop\"})", records),
        ("stored events", "sum by (pipeline) (events_stored_total{namespace=\"shop\"})", rows),
        ("lag", "sum by (pipeline) (analytics_pipeline_lag_events{namespace=\"shop\"})", 0.0),
        ("ready consumers", "sum by (pipeline) (analytics_pipeline_replicas{state=\"ready\"})", 2.0),
        ("assigned partitions", "sum by (pipeline) (partitions_assigned)", 4.0),
    ] {
        wait::until_true(what, SOON, || async {
            let found = prometheus.query(expression).await?;
            let [(series, value)] = found.as_slice() else { anyhow::bail!("{found:?}") };
            ensure!(
                series["pipeline"] == PIPELINE && (value - expected).abs() < 0.5,
                "{found:?}, not {expected}"
            );
            Ok(true)
        })
        .await?;
    }
    Ok(())
}

/// Names of the rules in a file of the repository.
fn names(file: &str) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(repository().join("grafana/alerts").join(file))?;
    let content: Value = serde_saphyr::from_str(&text)?;
    let rules = list(&content["groups"]).iter().flat_map(|group| list(&group["rules"]));
    let name = |rule: &Value| rule["alert"].as_str().or(rule["record"].as_str()).map(str::to_owned);
    Ok(rules.filter_map(name).collect())
}

pub(crate) async fn all_rules_are_loaded_and_evaluated(prometheus: &Prometheus) -> Result<()> {
    let mut expected = BTreeSet::new();
    for file in ["consumers.yaml", "pipelines.yaml", "controller.yaml"] {
        expected.extend(names(file)?);
    }
    wait::until_true("all rules are evaluated", SOON, || async {
        let data = prometheus.api("rules").await?;
        let rules: Vec<&Value> =
            list(&data["groups"]).iter().flat_map(|group| list(&group["rules"])).collect();
        let found: BTreeSet<String> =
            rules.iter().filter_map(|rule| rule["name"].as_str().map(str::to_owned)).collect();
        ensure!(found == expected, "{found:?} instead of {expected:?}");
        let unwell: Vec<_> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
        ensure!(unwell.is_empty(), "{unwell:?}");
        Ok(true)
    })
    .await?;
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}").await?;
    ensure!(firing.is_empty(), "nothing is wrong, and yet there is {firing:?}");
    Ok(())
}

/// The output of both programs as pods, and the rules as they are in the cluster, against Prometheus' own tool.
pub(crate) async fn promtool_finds_no_fault(world: &World) -> Result<()> {
    for (namespace, name) in [(OPERATOR, "analytics-controller"), (PIPELINES, "analytics-consumer")] {
        let pods = world.pods(namespace, name).await?;
        let pod = pods.first().with_context(|| format!("no {name}"))?;
        let (status, metrics) = http::get_from(address(pod, 9090)?, "/metrics").await?;
        ensure!(status == 200, "{name}: {metrics}");
        prometheus::check_metrics(&metrics).await?;
    }
    let folder = tempfile::tempdir()?;
    let of_pipeline = spec(&api(world, PIPELINES, KINDS[1]).get("clicks-consumer").await?)?;
    let of_chart = spec(&api(world, OPERATOR, KINDS[1]).get("analytics-controller").await?)?;
    for (file, content) in [("pipeline.yaml", &of_pipeline), ("chart.yaml", &of_chart)] {
        std::fs::write(folder.path().join(file), content.to_string())?;
        prometheus::promtool(&[
            "check",
            "rules",
            "--lint=all",
            "--lint-fatal",
            path(folder.path(), file)?.as_str(),
        ])
        .await?;
    }
    tokio::try_join!(
        cases_hold(folder.path(), "consumers.yaml", &of_pipeline),
        cases_hold(folder.path(), "pipelines.yaml", &of_pipeline),
        cases_hold(folder.path(), "controller.yaml", &of_chart),
    )?;
    Ok(())
}

fn spec(object: &DynamicObject) -> Result<Value> {
    let groups = object.data.pointer("/spec/groups").context("a rule without groups")?;
    Ok(json!({"groups": groups}))
}

fn path(folder: &Path, file: &str) -> Result<String> {
    Ok(folder.join(file).to_str().context("a path that is no text")?.to_owned())
}

/// The repository's cases with these rules in place of its own. Rules of one pipeline become rules of each pipeline that the
/// cases tell of: many pipelines side by side must give what the rules of the repository give for all at once.
async fn cases_hold(folder: &Path, file: &str, rules: &Value) -> Result<()> {
    let text = std::fs::read_to_string(repository().join("grafana/alerts/tests").join(file))?;
    let mut cases: Value = serde_saphyr::from_str(&text)?;
    let pipelines: BTreeSet<&str> =
        text.split("pipeline=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let mut sources = Vec::new();
    for pipeline in pipelines.into_iter().chain(pipelines_of_none(&text)) {
        let own =
            rules.to_string().replace("pipeline=\\\"clicks\\\"", &format!("pipeline=\\\"{pipeline}\\\""));
        let source = path(folder, &format!("{pipeline}-{file}"))?;
        std::fs::write(&source, own)?;
        sources.push(source);
    }
    cases["rule_files"] = json!(sources);
    let cases_file = path(folder, &format!("cases-{file}"))?;
    std::fs::write(&cases_file, cases.to_string())?;
    prometheus::promtool(&["test", "rules", &cases_file]).await.with_context(|| file.to_owned())?;
    Ok(())
}

/// Rules that are about no pipeline stand once.
fn pipelines_of_none(cases: &str) -> Option<&'static str> {
    (!cases.contains("pipeline=\"")).then_some("none")
}

/// Nobody is to find out by chance that what was applied never ran.
pub(crate) async fn a_pipeline_that_never_ran_has_its_alerts(
    world: &World,
    prometheus: &Prometheus,
) -> Result<()> {
    let object = json!({
        "apiVersion": "analyticspipeline.dev/v1alpha1", "kind": "AnalyticsPipeline",
        "metadata": {"name": "refused", "namespace": PIPELINES},
        "spec": {
            "source": {"bootstrapServers": "kafka:9092", "topic": "refused"},
            "sink": {"urlSecretRef": {"name": "nowhere"}},
        },
    });
    world.pipelines().patch("refused", &PatchParams::apply("user").force(), &Patch::Apply(object)).await?;
    let rules = api(world, PIPELINES, KINDS[1]);
    wait::until("its alerts", SOON, || async { Ok(Some(rules.get("refused-consumer").await?)) }).await?;
    let monitor = api(world, PIPELINES, KINDS[0]).get_opt("refused-consumer").await?;
    ensure!(monitor.is_none(), "there is nothing to scrape: {monitor:?}");
    // What is behind AnalyticsPipelineNotReady, which takes a quarter of an hour.
    let unready = "analytics_pipeline_condition{pipeline=\"refused\", condition=\"Ready\"} == 0";
    wait::until_true("it is seen to be unready", SOON, || async {
        Ok(prometheus.query(unready).await?.len() == 1)
    })
    .await?;
    world.pipelines().delete("refused", &DeleteParams::default()).await?;
    Ok(())
}

pub(crate) async fn what_is_disabled_or_deleted_goes(world: &World) -> Result<()> {
    world.change_pipeline(&json!({"telemetry": {"podMonitor": "Disabled"}})).await?;
    gone(world, KINDS[0]).await?;
    ensure!(
        api(world, PIPELINES, KINDS[1]).get_opt("clicks-consumer").await?.is_some(),
        "the alerts went too"
    );
    world.pipelines().delete(PIPELINE, &DeleteParams::default()).await?;
    gone(world, KINDS[1]).await
}

async fn gone(world: &World, kind: (&str, &str)) -> Result<()> {
    let api = api(world, PIPELINES, kind);
    wait::until_true(&format!("the {} is gone", kind.0), SOON, || async {
        Ok(api.get_opt("clicks-consumer").await?.is_none())
    })
    .await
}
