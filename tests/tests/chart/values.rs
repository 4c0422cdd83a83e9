//! values.yaml and values.schema.json know the same values, and each is explained.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;
use testbed::helm;

fn read(name: &str) -> Result<String> {
    std::fs::read_to_string(helm::chart().join(name)).with_context(|| format!("failed to read {name}"))
}

/// Paths of the properties that a closed object of the schema has.
fn known(schema: &Value, path: &str, paths: &mut BTreeSet<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if property["additionalProperties"] == false && property["properties"].is_object() {
            known(property, &path, paths);
        }
        paths.insert(path);
    }
}

fn is_known(schema: &Value, values: &Value, path: &str, missing: &mut Vec<String>) {
    for (name, value) in values.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match schema["properties"].get(name) {
            None => missing.push(path),
            Some(property) if property["properties"].is_object() => is_known(property, value, &path, missing),
            Some(_) => {}
        }
    }
}

#[test]
fn every_value_is_in_the_schema_and_every_property_has_a_default() -> Result<()> {
    let schema: Value = serde_json::from_str(&read("values.schema.json")?)?;
    let values: Value = serde_saphyr::from_str(&read("values.yaml")?)?;
    let mut missing = Vec::new();
    is_known(&schema, &values, "", &mut missing);
    assert!(missing.is_empty(), "values that the schema does not know: {missing:?}");

    // These are as in a pod: leaving them out is their default. Helm itself adds `global`.
    let optional = [".global", ".affinity.", ".resources.claims"];
    let mut paths = BTreeSet::new();
    known(&schema, "", &mut paths);
    let absent: Vec<_> = paths
        .iter()
        .filter(|path| !optional.iter().any(|prefix| path.starts_with(prefix)))
        .filter(|path| values.pointer(&path.replace('.', "/")).is_none())
        .collect();
    assert!(absent.is_empty(), "properties of the schema without a default in values.yaml: {absent:?}");
    Ok(())
}

#[test]
fn every_value_at_the_top_is_explained() -> Result<()> {
    let text = read("values.yaml")?;
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        if line.starts_with(|first: char| first.is_ascii_lowercase()) {
            assert!(index > 0 && lines[index - 1].starts_with("# "), "line {}: {line}", index + 1);
        }
    }
    Ok(())
}

#[test]
fn the_chart_and_the_program_have_one_version() -> Result<()> {
    let chart: Value = serde_saphyr::from_str(&read("Chart.yaml")?)?;
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    Ok(())
}
