//! The tables of good and bad specifications.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One row of `bad.yaml`.
#[derive(Debug, Deserialize, Serialize)]
struct Bad {
    /// What is wrong with it.
    name: String,
    /// What is different from the smallest good pipeline, as a JSON merge patch.
    change: Value,
    /// For rules about changes: the pipeline before, as a patch of the same kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    /// Everything that the API server says, field by field.
    #[serde(default)]
    says: Vec<String>,
}

/// One row of `good.yaml`.
#[derive(Debug, Deserialize)]
struct Good {
    name: String,
    change: Value,
}

const HEADER: &str = "# Specifications that must be refused, as differences from the smallest good one, and everything that the API server says
# to each. Written by the test itself with RECORD=1; to be judged by a person before it is committed.
";

/// Every row of `good.yaml` is taken.
pub(crate) async fn good(client: &Client) -> Result<()> {
    let table: Vec<Good> = read("good.yaml")?;
    ensure!(table.len() >= 20, "only {} good ones", table.len());
    for row in table {
        let pipeline = changed(&row.change);
        if let Some(refusals) = attempt(client, http::Method::POST, "", &pipeline).await? {
            bail!("{}: refused: {refusals:#?}", row.name);
        }
    }
    Ok(())
}

/// Every row of `bad.yaml` is refused with exactly its words.
pub(crate) async fn bad(client: &Client) -> Result<()> {
    let mut table: Vec<Bad> = read("bad.yaml")?;
    ensure!(table.len() >= 60, "only {} bad ones", table.len());
    let mut wrong = Vec::new();
    for row in &mut table {
        let said = refusals(client, row).await.with_context(|| row.name.clone())?;
        if said != row.says || said.is_empty() {
            wrong.push(format!("{}\n  expected: {:#?}\n  got: {said:#?}", row.name, row.says));
        }
        row.says = said;
    }
    if std::env::var_os("RECORD").is_some() {
        std::fs::write(path("bad.yaml"), format!("{HEADER}{}", serde_saphyr::to_string(&table)?))?;
    }
    ensure!(wrong.is_empty(), "{} rows are not as expected:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

async fn refusals(client: &Client, row: &Bad) -> Result<Vec<String>> {
    let Some(before) = &row.before else {
        let said = attempt(client, http::Method::POST, "", &changed(&row.change)).await?;
        return Ok(said.unwrap_or_default());
    };
    let (before, mut after) = (changed(before), changed(&row.change));
    let path = format!("{PATH}/{}", before["metadata"]["name"].as_str().unwrap_or_default());
    let stored: Value = client.request(request(http::Method::POST, PATH, &before)?).await?;
    after["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    let said = attempt(client, http::Method::PUT, "/first", &after).await?;
    let _: Value = client.request(request(http::Method::DELETE, &path, &json!({}))?).await?;
    Ok(said.unwrap_or_default())
}

const PATH: &str = "/apis/analyticspipeline.dev/v1alpha1/namespaces/default/analyticspipelines";

/// What the API server adds when a fault of the schema keeps it from evaluating the rules.
const UNFINISHED: &str = "correct the existing errors to complete validation";

/// Tries it without storing anything, as strictly as kubectl does; gives back what the API server says against it.
async fn attempt(
    client: &Client,
    method: http::Method,
    suffix: &str,
    pipeline: &Value,
) -> Result<Option<Vec<String>>> {
    let path = format!("{PATH}{suffix}?dryRun=All&fieldValidation=Strict");
    match client.request::<Value>(request(method, &path, pipeline)?).await {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) => {
            let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
            let mut said: Vec<String> = causes
                .iter()
                .map(|cause| format!("{}: {}", cause.field, cause.message))
                .filter(|said| !said.ends_with(UNFINISHED))
                .collect();
            if said.is_empty() {
                said.push(status.message.clone());
            }
            said.sort();
            Ok(Some(said))
        }
        Err(error) => Err(error.into()),
    }
}

fn request(method: http::Method, path: &str, body: &Value) -> Result<http::Request<Vec<u8>>> {
    let builder =
        http::Request::builder().method(method).uri(path).header("Content-Type", "application/json");
    Ok(builder.body(body.to_string().into_bytes())?)
}

/// The smallest good pipeline with a JSON merge patch (RFC 7386) applied.
pub(crate) fn changed(patch: &Value) -> Value {
    let mut pipeline = json!({
        "apiVersion": "analyticspipeline.dev/v1alpha1",
        "kind": "AnalyticsPipeline",
        "metadata": {"name": "first"},
        "spec": {
            "source": {"bootstrapServers": "kafka:9092", "topic": "user-events"},
            "sink": {"urlSecretRef": {"name": "analytics-db"}},
        },
    });
    merge(&mut pipeline, patch);
    pipeline
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().into_iter().for_each(|target| drop(target.remove(key)));
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// Reads a table that lies beside this file.
pub(crate) fn read<T: serde::de::DeserializeOwned>(name: &str) -> Result<T> {
    let text = std::fs::read_to_string(path(name)).with_context(|| format!("failed to read {name}"))?;
    serde_saphyr::from_str(&text).with_context(|| format!("{name} is not as expected"))
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/admission").join(name)
}
