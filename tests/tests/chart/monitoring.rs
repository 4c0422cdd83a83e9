//! What the chart tells Prometheus and Grafana.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testbed::dashboards::{Dashboard, list};
use testbed::helm;

async fn of_kind(kind: &str, values: Value) -> Result<Vec<Value>> {
    let mut objects = helm::objects(&helm::render(&values).await?)?;
    objects.retain(|object| object["kind"] == kind);
    Ok(objects)
}

/// Grafana's sidecar takes what has its label, and puts it where its annotation says.
#[tokio::test]
async fn dashboards_carry_the_label_that_the_sidecar_looks_for() -> Result<()> {
    let other = json!({
        "enabled": true, "label": "dashboards.example/load", "labelValue": "yes",
        "folder": "Analytics", "folderAnnotation": "k8s-sidecar-target-directory", "namespace": "grafana",
    });
    let table = [
        (json!({"enabled": true}), "grafana_dashboard", "1", Value::Null, "analytics-system"),
        (
            json!({"enabled": true, "folder": "Events"}),
            "grafana_dashboard",
            "1",
            json!({"grafana_folder": "Events"}),
            "analytics-system",
        ),
        (
            other,
            "dashboards.example/load",
            "yes",
            json!({"k8s-sidecar-target-directory": "Analytics"}),
            "grafana",
        ),
    ];
    for (dashboards, label, value, annotations, namespace) in table {
        let maps = of_kind("ConfigMap", json!({"dashboards": dashboards})).await?;
        assert_eq!(maps.len(), 4, "{dashboards}");
        for map in &maps {
            let metadata = &map["metadata"];
            assert_eq!(metadata["labels"][label], value, "{dashboards}");
            assert_eq!(metadata["annotations"], annotations, "{dashboards}");
            assert_eq!(metadata["namespace"], namespace, "{dashboards}");
        }
    }
    Ok(())
}

/// What arrives in Grafana is what is in the repository, whatever YAML makes of it on the way.
#[tokio::test]
async fn dashboards_arrive_as_they_are() -> Result<()> {
    let maps = of_kind("ConfigMap", json!({"dashboards": {"enabled": true}})).await?;
    for dashboard in Dashboard::all()? {
        let file = format!("{}.json", dashboard.name);
        let text = maps.iter().find_map(|map| map["data"][&file].as_str()).context(file.clone())?;
        assert_eq!(serde_json::from_str::<Value>(text)?, dashboard.json, "{file}");
    }
    Ok(())
}

#[tokio::test]
async fn alerts_link_to_their_runbooks_below_the_address_that_is_given() -> Result<()> {
    for (base, expected) in [
        ("", "docs/runbooks/"),
        ("https://wiki.example/analytics", "https://wiki.example/analytics/docs/runbooks/"),
        ("https://wiki.example/", "https://wiki.example/docs/runbooks/"),
    ] {
        let values = json!({"prometheusRule": {"enabled": true}, "runbookBaseUrl": base});
        let objects = of_kind("PrometheusRule", values).await?;
        let groups = list(&objects.first().context("no PrometheusRule")?["spec"]["groups"]);
        let mut found = 0;
        for rule in groups.iter().flat_map(|group| list(&group["rules"])) {
            let alert = rule["alert"].as_str().context("a rule without name")?;
            assert_eq!(rule["annotations"]["runbook_url"], format!("{expected}{alert}.md"), "{base}");
            found += 1;
        }
        assert_eq!(found, 3);
    }
    Ok(())
}
