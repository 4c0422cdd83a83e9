//! `crds/analyticspipelines.yaml` is what users install: it must be what the types say.

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
