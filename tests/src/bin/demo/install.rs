//! Puts the operator and the sample pipeline on the cluster, with kubectl, as a user would.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{Image, wait};

use crate::place::Place;

/// Where the sample pipeline runs.
pub(crate) const NAMESPACE: &str = "analytics";
/// The topic of the sample pipeline.
pub(crate) const TOPIC: &str = "user-events";

const READY: Duration = Duration::from_secs(180);
const OPERATOR_NAMESPACE: &str = "analytics-system";

/// What each consumer of the demo may use: 2 % of a core. Unbounded, one consumer would store all events before anybody
/// could see the operator scale.
const CONSUMER_CPU: &str = "20m";

/// What the live view needs to know of the sample.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) name: String,
    pub(crate) group: String,
    /// Fewest consumers.
    pub(crate) min_replicas: i32,
}

/// Installs the operator and waits until it is available.
pub(crate) async fn operator(place: &Place) -> Result<()> {
    apply(place, operator_manifests(place).await?).await?;
    let rollout = ["rollout", "status", "deployment/analytics-controller", "--timeout=180s", "--namespace"];
    place.cluster.kubectl(&[&rollout[..], &[OPERATOR_NAMESPACE]].concat()).await.map(drop)
}

/// Applies the sample with what it needs: its namespace, and the Secret with the way to the database.
pub(crate) async fn pipeline(place: &Place) -> Result<Pipeline> {
    let sample = sample(place)?;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": NAMESPACE, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": sample["spec"]["sink"]["urlSecretRef"]["name"], "namespace": NAMESPACE },
        "stringData": { "url": place.database_url_for_pods },
    });
    let described = Pipeline {
        name: text_at(&sample, "/metadata/name").context("the sample has no name")?,
        group: text_at(&sample, "/spec/source/groupId").unwrap_or_else(|| "analytics-service".to_owned()),
        min_replicas: i32::try_from(sample["spec"]["scaling"]["minReplicas"].as_i64().unwrap_or(1))?,
    };
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [namespace, secret, sample] });
    apply(place, list.to_string()).await?;
    Ok(described)
}

/// The sample, told where Kafka is, with small consumers.
fn sample(place: &Place) -> Result<Value> {
    let path = repository().join("manifests/samples/user-events.yaml");
    let text = std::fs::read_to_string(path).context("failed to read the sample pipeline")?;
    let mut sample: Value = serde_saphyr::from_str(&text).context("the sample pipeline is not valid YAML")?;
    for (pointer, expected) in [("/metadata/namespace", NAMESPACE), ("/spec/source/topic", TOPIC)] {
        ensure!(
            text_at(&sample, pointer).as_deref() == Some(expected),
            "the sample's {pointer} is not {expected}"
        );
    }
    sample["spec"]["source"]["bootstrapServers"] = json!(place.kafka_for_pods);
    for kind in ["requests", "limits"] {
        sample["spec"]["consumer"]["resources"][kind]["cpu"] = json!(CONSUMER_CPU);
    }
    Ok(sample)
}

/// Waits until the controller says that the pipeline does its work.
pub(crate) async fn await_ready(place: &Place) -> Result<()> {
    let words = ["wait", "--for=condition=Ready", "apl", "--all", "--timeout=5s", "--namespace", NAMESPACE];
    // kubectl fails at once while the condition's owner has not written any: that is "not yet".
    wait::until_true("the pipeline is Ready", READY, || async {
        place.cluster.kubectl(&words).await.map(|_| true)
    })
    .await
}

/// Removes what the demo has put on a user's cluster.
pub(crate) async fn remove(place: &Place) -> Result<()> {
    let namespace = ["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s"];
    place.cluster.kubectl(&namespace).await?;
    let manifests = operator_manifests(place).await?;
    kubectl_with_input(place, &["delete", "--ignore-not-found", "--timeout=120s", "--filename=-"], manifests)
        .await
}

/// The install manifests, with the image that this place has.
async fn operator_manifests(place: &Place) -> Result<String> {
    let folder = repository().join("manifests/install");
    let text = place.cluster.kubectl(&["kustomize", &folder.to_string_lossy()]).await?;
    ensure!(text.contains("kind: Deployment"), "{} holds no Deployment", folder.display());
    Ok(text.replace(Image::NAME, &place.image))
}

async fn apply(place: &Place, manifests: String) -> Result<()> {
    kubectl_with_input(place, &["apply", "--server-side", "--force-conflicts", "--filename=-"], manifests)
        .await
}

async fn kubectl_with_input(place: &Place, words: &[&str], input: String) -> Result<()> {
    let mut command = place.cluster.kubectl_command()?;
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shown = format!("kubectl {}", words.join(" "));
    // kubectl reads all of its input before it says anything, so writing first cannot block for ever.
    let run = move || -> Result<std::process::Output> {
        let mut child = command.spawn()?;
        child.stdin.take().context("kubectl has no input")?.write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
    };
    let output = tokio::task::spawn_blocking(run).await?.with_context(|| format!("failed to run {shown}"))?;
    ensure!(output.status.success(), "{shown} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn text_at(value: &Value, pointer: &str) -> Option<String> {
    Some(value.pointer(pointer)?.as_str()?.to_owned())
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
