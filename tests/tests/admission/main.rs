//! What the API server says to a specification: bad ones are refused in words that lead out, good ones are taken.
//!
//! The tables are YAML files. With `RECORD=1` the test writes what the API server says into `bad.yaml`, to be read and
//! judged before it is committed.

mod stored;
mod table;

use anyhow::Result;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::Value;
use std::time::Duration;
use testbed::{Cluster, ClusterOptions, wait};

#[tokio::test]
async fn the_api_server_refuses_what_cannot_be_run_and_takes_what_can() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let client = cluster.client().await?;
    install(&client, &serde_json::to_value(analytics_api::crd())?).await?;
    table::good(&client).await?;
    table::bad(&client).await?;
    stored::objects_of_earlier_versions_stay_readable(&client).await?;
    stored::an_object_from_before_a_rule_can_still_be_reported_on(&client).await
}

/// Applies a definition and waits until the API server serves it.
async fn install(client: &Client, definition: &Value) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = "analyticspipelines.analyticspipeline.dev";
    let applied =
        definitions.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(definition)).await?;
    let generation = applied.metadata.generation;
    wait::until_true("the definition is served", Duration::from_secs(30), || async {
        let found = definitions.get(name).await?;
        let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
        let established = conditions.iter().any(|one| one.type_ == "Established" && one.status == "True");
        Ok(established && found.metadata.generation == generation)
    })
    .await
}
