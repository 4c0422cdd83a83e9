//! Whole reconciles, against an API server that is not one.

use serde_json::json;

use super::fake::ApiServer;
use super::*;

/// Nobody listens there, so lag is unknown at once; the number is the user's.
const SPEC: &str =
    r#"{"source": {"bootstrapServers": "127.0.0.1:1"}, "scaling": {"mode": "Fixed", "replicas": 3}}"#;
const DEPLOYMENT: &str = "/deployments/clicks-consumer";

fn deployment(replicas: i32) -> k8s_openapi::api::apps::v1::Deployment {
    serde_json::from_value(json!({
        "metadata": {
            "name": "clicks-consumer", "namespace": "shop", "generation": 1,
            "ownerReferences": [{"apiVersion": "analyticspipeline.dev/v1alpha1", "kind": "AnalyticsPipeline", "name": "clicks", "uid": "uid-clicks"}],
        },
        "spec": {"replicas": replicas, "selector": {}, "template": {}},
        "status": {"replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas, "observedGeneration": 1},
    }))
    .unwrap()
}

/// The Job of a migration that has succeeded, of the same pipeline.
fn migrated(pipeline: &AnalyticsPipeline) -> k8s_openapi::api::batch::v1::Job {
    let references = fixtures::secrets(&[("db", &[("url", "postgres://writer:swordfish@db:5432/shop")])]);
    let valid = validate::run(pipeline, &pipeline.into(), &references, &[], Some("image:1")).unwrap();
    let job = Prepared::new(1, references, valid).job;
    serde_json::from_value(json!({
        "metadata": {
            "name": job, "namespace": "shop",
            "ownerReferences": [{"apiVersion": "analyticspipeline.dev/v1alpha1", "kind": "AnalyticsPipeline", "name": "clicks", "uid": "uid-clicks"}],
        },
        "status": {"succeeded": 1},
    }))
    .unwrap()
}

fn begin(api: &ApiServer, replicas: i32) -> (Arc<Pipeline>, Arc<Context>, fixtures::Watches) {
    let pipeline = fixtures::pipeline(SPEC);
    let (context, watches) =
        fixtures::context(&api.client, vec![deployment(replicas)], vec![migrated(&pipeline)]);
    (Arc::new(kube::core::DeserializeGuard(Ok(pipeline))), context, watches)
}

/// At the start or after a hand-over the first reconcile must not decide from what no watch has delivered yet.
#[tokio::test]
async fn nothing_is_concluded_before_every_watch_has_listed_what_there_is() {
    let api = ApiServer::start().await;
    let (pipeline, context, watches) = begin(&api, 1);
    let mut reconciled = Box::pin(reconcile(pipeline, Arc::clone(&context)));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut reconciled).await;
    assert!(early.is_err(), "{early:?}");
    assert!(api.written("").is_empty(), "{:?}", api.written(""));
    watches.list();
    reconciled.await.unwrap();
    assert_eq!(api.written(DEPLOYMENT)[0]["spec"]["replicas"], 3);
}

/// A change that the API server refuses has not happened, however often it is tried.
#[tokio::test]
async fn a_refused_change_of_scale_is_not_told_as_one() {
    let api = ApiServer::start().await;
    let (pipeline, context, watches) = begin(&api, 1);
    watches.list();
    api.refuse(&[DEPLOYMENT]);
    for _ in 0..2 {
        reconcile(Arc::clone(&pipeline), Arc::clone(&context)).await.unwrap();
    }
    assert!(!api.events().contains(&"ScaledUp".to_owned()), "{:?}", api.events());
    let told = api.written("/status");
    assert!(told[0].to_string().contains("Failed to apply Deployment"), "{told:?}");
    assert!(told.iter().all(|status| status["status"]["scaling"].get("lastScaleTime").is_none()), "{told:?}");
}

/// And one that has happened is told once, though the status cannot be written.
#[tokio::test]
async fn a_change_of_scale_is_told_once_whatever_becomes_of_the_status() {
    let api = ApiServer::start().await;
    let (pipeline, context, watches) = begin(&api, 1);
    watches.list();
    api.refuse(&["/status"]);
    for _ in 0..2 {
        reconcile(Arc::clone(&pipeline), Arc::clone(&context)).await.unwrap();
    }
    assert_eq!(api.events(), ["ScaledUp"]);
    api.refuse(&[]);
    reconcile(pipeline, context).await.unwrap();
    let told = api.written("/status");
    assert!(told[0]["status"]["scaling"]["lastScaleTime"].is_string(), "{told:?}");
    assert_eq!(api.events().iter().filter(|reason| *reason == "ScaledUp").count(), 1);
}

/// A rival on other brokers is none, and no reason to work everything out again each time.
#[tokio::test]
async fn what_was_worked_out_is_kept_beside_others_with_the_same_group() {
    let api = ApiServer::start().await;
    let (_, context, _) = begin(&api, 1);
    let references = || fixtures::secrets(&[("db", &[("url", "postgres://writer:swordfish@db:5432/shop")])]);
    let pipeline = fixtures::pipeline(SPEC);
    let mut memory = Memory::default();
    let spec = (&pipeline).into();
    let first = prepared(&pipeline, &spec, references(), &[], &context, &mut memory).unwrap();
    let named = |brokers: &str| {
        let mut other = fixtures::pipeline(&format!(r#"{{"source": {{"bootstrapServers": "{brokers}"}}}}"#));
        other.metadata.uid = Some("uid-other".to_owned());
        other.metadata.creation_timestamp = Some(fixtures::time(1));
        other
    };
    let elsewhere = named("elsewhere:9092");
    let second = prepared(&pipeline, &spec, references(), &[&elsewhere], &context, &mut memory).unwrap();
    assert!(Arc::ptr_eq(&first, &second), "worked out again");
    let rival = named("127.0.0.1:1");
    let refused = prepared(&pipeline, &spec, references(), &[&rival], &context, &mut memory);
    assert_eq!(refused.unwrap_err().reason, "ConflictingPipeline");
}
