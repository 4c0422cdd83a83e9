//! `crds/analyticspipelines.yaml` is what users install: it must be what the types say.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

#[test]
fn the_committed_definition_is_what_the_types_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds/analyticspipelines.yaml");
    let committed = std::fs::read_to_string(&path).unwrap();
    let generated = analytics_controller::crd_yaml().unwrap();
    assert!(
        committed == generated,
        "crds/analyticspipelines.yaml is out of date; write it anew with:\n  cargo run -p analytics-controller -- crd > crds/analyticspipelines.yaml"
    );
}

/// The file is read by tools of all kinds: what they read must be what was meant, rule by rule.
#[test]
fn the_yaml_reads_back_as_what_was_written() {
    let yaml = analytics_controller::crd_yaml().unwrap();
    let read: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(read, serde_json::to_value(analytics_api::crd()).unwrap());
}
