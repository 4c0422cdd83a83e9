//! Values that cannot be meant, and what the chart says to them.

use serde_json::{Value, json};
use testbed::helm;

/// Values, and all that the message must name.
fn table() -> Vec<(Value, &'static [&'static str])> {
    vec![
        (json!({"replica": 2}), &["additional properties 'replica' not allowed"]),
        (json!({"image": {"tags": "1"}}), &["/image", "additional properties 'tags' not allowed"]),
        (json!({"serviceMonitor": {"enable": true}}), &["/serviceMonitor", "'enable' not allowed"]),
        (json!({"replicas": "two"}), &["/replicas", "want integer"]),
        (json!({"replicas": -1}), &["/replicas", "minimum"]),
        (json!({"replicas": 100}), &["/replicas", "maximum"]),
        (
            json!({"image": {"pullPolicy": "Sometimes"}}),
            &["/image/pullPolicy", "'Always', 'IfNotPresent', 'Never'"],
        ),
        (json!({"image": {"digest": "sha256:1234"}}), &["/image/digest", "does not match pattern"]),
        (json!({"image": {"repository": ""}}), &["/image/repository", "minLength"]),
        (json!({"imagePullSecrets": ["registry"]}), &["/imagePullSecrets/0", "want object"]),
        (json!({"watchNamespaces": "shop"}), &["/watchNamespaces", "want array"]),
        (json!({"watchNamespaces": ["Shop"]}), &["/watchNamespaces/0", "does not match pattern"]),
        (json!({"watchNamespaces": ["shop", "shop"]}), &["/watchNamespaces", "equal"]),
        (json!({"rbac": {"secretNames": ["*"]}}), &["/rbac/secretNames/0", "does not match pattern"]),
        (json!({"logging": {"format": "xml"}}), &["/logging/format", "'text', 'json'"]),
        (json!({"pollIntervalSeconds": "5s"}), &["/pollIntervalSeconds", "want integer"]),
        (json!({"metrics": {"port": 80}}), &["/metrics/port", "minimum"]),
        (json!({"env": [{"name": "WATCH_NAMESPACE", "value": "x"}]}), &["/env/0/name"]),
        (json!({"resources": {"cpu": 1}}), &["/resources", "'cpu' not allowed"]),
        (
            json!({"serviceMonitor": {"interval": "often"}}),
            &["/serviceMonitor/interval", "does not match pattern"],
        ),
        (json!({"runbookBaseUrl": "wiki.example"}), &["/runbookBaseUrl", "does not match pattern"]),
        (json!({"podDisruptionBudget": {"maxUnavailable": 0}}), &["/podDisruptionBudget/maxUnavailable"]),
        (json!({"networkPolicy": {"kafkaPorts": [0]}}), &["/networkPolicy/kafkaPorts/0", "minimum"]),
        (json!({"affinity": {"nodes": {}}}), &["/affinity", "'nodes' not allowed"]),
        (
            json!({"serviceAccount": {"create": false}}),
            &[
                "serviceAccount.name must name a ServiceAccount that exists when serviceAccount.create is false",
            ],
        ),
    ]
}

#[tokio::test]
async fn values_that_cannot_be_meant_are_refused_by_name() {
    for (values, expected) in table() {
        let Err(error) = helm::render(&values).await else { panic!("accepted: {values}") };
        let message = format!("{error:#}");
        for part in expected {
            assert!(message.contains(part), "{values}\nexpected: {part}\ngot: {message}");
        }
    }
}
