//! Objects that are in the store already, from an earlier version of the definition.

use analytics_api::AnalyticsPipeline;
use anyhow::{Context, Result, ensure};
use kube::Client;
use kube::api::{Api, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DeserializeGuard};
use serde_json::{Value, json};

use crate::{install, table};

/// Each released version leaves an object here; whoever changes the types must go on reading it.
pub(crate) async fn objects_of_earlier_versions_stay_readable(client: &Client) -> Result<()> {
    let stored: Vec<Value> = table::read("stored-0.1.yaml")?;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource());
    let typed: Api<AnalyticsPipeline> = Api::namespaced(client.clone(), "default");
    for object in stored {
        let name = object["metadata"]["name"].as_str().context("an object without a name")?.to_owned();
        let status = object["status"].clone();
        api.create(&PostParams::default(), &serde_json::from_value(object.clone())?)
            .await
            .with_context(|| format!("{name} is refused"))?;
        let patch = json!({"status": status});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("the status of {name} is refused"))?;
        let read =
            serde_json::to_value(typed.get(&name).await.with_context(|| format!("{name} cannot be read"))?)?;
        for (path, value) in leaves(&object, "") {
            ensure!(
                read.pointer(&path) == Some(&value),
                "{name}: {path} was {value}, and is {:?}",
                read.pointer(&path)
            );
        }
        api.delete(&name, &Default::default()).await?;
    }
    Ok(())
}

/// A rule that comes later must not lock the operator out of what is there: its status can still be written, and whoever
/// owns it can change other fields.
pub(crate) async fn an_object_from_before_a_rule_can_still_be_reported_on(client: &Client) -> Result<()> {
    let current = serde_json::to_value(analytics_api::crd())?;
    let mut without_rules = current.clone();
    remove_rules(
        &mut without_rules["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
    );
    install(client, &without_rules).await?;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource());
    let old = table::changed(&json!({
        "metadata": {"name": "old"},
        "spec": {"scaling": {"minReplicas": 5, "maxReplicas": 2}},
    }));
    // The API server takes a moment to serve a definition's new schema.
    testbed::wait::until_true("the old object is stored", std::time::Duration::from_secs(30), || async {
        api.create(&PostParams::default(), &serde_json::from_value(old.clone())?).await?;
        Ok(true)
    })
    .await?;
    install(client, &current).await?;
    testbed::wait::until_true("the rules are back", std::time::Duration::from_secs(30), || async {
        let mut new = old.clone();
        new["metadata"]["name"] = json!("new");
        let parameters = PostParams { dry_run: true, ..PostParams::default() };
        Ok(api.create(&parameters, &serde_json::from_value(new)?).await.is_err())
    })
    .await?;

    let typed: Api<DeserializeGuard<AnalyticsPipeline>> = Api::namespaced(client.clone(), "default");
    let read = typed.get("old").await?.0.map_err(|error| anyhow::anyhow!("{}", error.error))?;
    ensure!(read.spec.scaling.min_replicas == 5);
    let status = json!({
        "apiVersion": "analyticspipeline.dev/v1alpha1", "kind": "AnalyticsPipeline",
        "metadata": {"name": "old"}, "status": {"observedGeneration": 1},
    });
    let apply = PatchParams::apply("analytics-controller").force();
    api.patch_status("old", &apply, &Patch::Apply(status)).await.context("the status cannot be written")?;
    let other = json!({"spec": {"consumer": {"logLevel": "debug"}}});
    api.patch("old", &PatchParams::default(), &Patch::Merge(other))
        .await
        .context("other fields are locked")?;
    api.delete("old", &Default::default()).await?;
    Ok(())
}

fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("analyticspipeline.dev", "v1alpha1", "AnalyticsPipeline"))
}

fn remove_rules(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("x-kubernetes-validations");
            map.values_mut().for_each(remove_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_rules),
        _ => {}
    }
}

/// Everything that is neither object nor array, by its JSON pointer.
fn leaves(value: &Value, path: &str) -> Vec<(String, Value)> {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => {
            map.iter().flat_map(|(key, value)| leaves(value, &format!("{path}/{}", escape(key)))).collect()
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(index, value)| leaves(value, &format!("{path}/{index}")))
            .collect(),
        leaf => vec![(path.to_owned(), leaf.clone())],
    }
}
