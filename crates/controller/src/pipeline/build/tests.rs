//! Whole objects, as they are sent to the API server, and the few properties that must hold for every one of them.

use serde_json::Value;

use super::{Objects, run};
use crate::pipeline::fixtures;

const FULL: &str = include_str!("testdata/full.json");

fn json(objects: &Objects) -> Vec<(&'static str, Value)> {
    let Objects { service_account, config_map, service, budget, network_policy, migration, deployment } =
        objects;
    vec![
        ("service_account", serde_json::to_value(service_account).unwrap()),
        ("config_map", serde_json::to_value(config_map).unwrap()),
        ("service", serde_json::to_value(service).unwrap()),
        ("budget", serde_json::to_value(budget).unwrap()),
        ("network_policy", serde_json::to_value(network_policy).unwrap()),
        ("migration", serde_json::to_value(migration).unwrap()),
        ("deployment", serde_json::to_value(deployment).unwrap()),
    ]
    .into_iter()
    .filter(|(_, object): &(_, Value)| !object.is_null())
    .collect()
}

fn templates(spec: &str) -> Vec<Value> {
    let objects = json(&run(&fixtures::valid(spec), 2));
    objects.iter().filter_map(|(_, object)| object["spec"].get("template").cloned()).collect()
}

fn template_hash(spec: &str) -> String {
    let objects = run(&fixtures::valid(spec), 2);
    serde_json::to_string(&objects.deployment.spec.unwrap().template).unwrap()
}

#[test]
fn objects_of_a_minimal_pipeline() {
    for (kind, object) in json(&run(&fixtures::valid("{}"), 3)) {
        insta::assert_yaml_snapshot!(format!("minimal_{kind}"), object);
    }
}

#[test]
fn objects_of_a_pipeline_that_uses_every_field() {
    for (kind, object) in json(&run(&fixtures::valid(FULL), 3)) {
        insta::assert_yaml_snapshot!(format!("full_{kind}"), object);
    }
}

#[test]
fn no_object_holds_a_value_of_a_secret() {
    for (kind, object) in json(&run(&fixtures::valid(FULL), 1)) {
        assert!(!object.to_string().contains("swordfish"), "{kind}");
    }
}

#[test]
fn every_object_goes_with_its_pipeline() {
    for (kind, object) in json(&run(&fixtures::valid(FULL), 1)) {
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "uid-clicks", "{kind}");
        assert_eq!(object["metadata"]["ownerReferences"][0]["controller"], true, "{kind}");
        assert_eq!(object["metadata"]["namespace"], "shop", "{kind}");
        assert_eq!(
            object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "analytics-controller",
            "{kind}"
        );
    }
}

/// Pod Security Standard "restricted", and what goes beyond it: a cluster that enforces it must accept every pod.
#[test]
fn every_pod_is_restricted() {
    for template in templates(FULL) {
        let (pod, container) = (&template["spec"], &template["spec"]["containers"][0]);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["enableServiceLinks"], false);
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL");
        assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError");
    }
}

#[test]
fn migrations_are_not_counted_as_consumers() {
    let [migration, consumer] = &templates("{}")[..] else { panic!("two kinds of pods") };
    let component = |template: &Value| template["metadata"]["labels"]["app.kubernetes.io/component"].clone();
    assert_eq!(component(migration), "migration");
    assert_eq!(component(consumer), "consumer");
}

#[test]
fn a_consumer_has_more_time_to_stop_than_it_takes() {
    let objects = run(&fixtures::valid(r#"{"consumer": {"shutdownTimeoutSeconds": 120}}"#), 1);
    let pod = objects.deployment.spec.unwrap().template.spec.unwrap();
    assert!(pod.termination_grace_period_seconds.unwrap() > 120);
}

/// Pods read their settings once: whatever changes them has to make new pods, and nothing else may.
#[test]
fn pods_are_replaced_when_settings_change_and_only_then() {
    let before = template_hash("{}");
    for (spec, replaced) in [
        (r#"{"delivery": {"batch": {"maxEvents": 5}}}"#, true),
        (r#"{"consumer": {"logLevel": "debug"}}"#, true),
        (r#"{"consumer": {"podMetadata": {"labels": {"team": "growth"}}}}"#, true),
        (r#"{"source": {"properties": {"fetch.max.bytes": "1000"}}}"#, true),
        (r#"{"scaling": {"minReplicas": 2, "maxReplicas": 9, "targetLagSeconds": 5}}"#, false),
        (r#"{"suspend": true}"#, false),
        (r#"{"sink": {"maxConnections": 100}}"#, false),
    ] {
        assert_eq!(template_hash(spec) != before, replaced, "{spec}");
    }
    assert_eq!(template_hash("{}"), before);
}

#[test]
fn a_rotated_password_replaces_the_pods() {
    let pipeline = fixtures::pipeline("{}");
    let hash = |url: &str| {
        let secrets = fixtures::secrets(&[("db", &[("url", url)])]);
        let valid =
            crate::pipeline::validate::run(&pipeline, &(&pipeline).into(), &secrets, &[], Some("i")).unwrap();
        serde_json::to_string(&run(&valid, 1).deployment.spec.unwrap().template).unwrap()
    };
    assert_ne!(hash("postgres://u:old@h/d"), hash("postgres://u:new@h/d"));
}

/// The consumer refuses to start with a setting that it does not know or cannot read.
#[test]
fn the_consumer_understands_every_setting() {
    for spec in ["{}", FULL] {
        let objects = run(&fixtures::valid(spec), 1);
        let mut variables: std::collections::BTreeMap<_, _> = objects.config_map.data.unwrap();
        let deployment = objects.deployment.spec.unwrap();
        for variable in deployment.template.spec.unwrap().containers[0].env.iter().flatten() {
            let value = match variable.name.as_str() {
                "DATABASE_URL" => "postgres://writer:swordfish@db:5432/shop",
                _ => "something",
            };
            variables.insert(variable.name.clone(), value.to_owned());
        }
        // The files are in the pod; here any file has to do.
        for (_, path) in variables.iter_mut().filter(|(name, _)| name.ends_with("_FILE")) {
            *path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").to_owned();
        }
        let settings = analytics_consumer::settings::Settings::from_variables(&variables);
        assert!(settings.is_ok(), "{spec}: {}", settings.err().unwrap());
    }
}
