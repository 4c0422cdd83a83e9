//! The schema is what users meet first: every field is described, every list and text is bounded.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// Types that are taken over from a pod or a NetworkPolicy as they are; their inside is Kubernetes' own.
const TAKEN_OVER: [&str; 6] = [
    ".spec.consumer.affinity",
    ".spec.consumer.tolerations",
    ".spec.consumer.topologySpreadConstraints",
    ".spec.consumer.env",
    ".spec.networkPolicy.metricsFrom",
    ".spec.networkPolicy.extraEgress",
];

fn walk(path: &str, schema: &JSONSchemaProps, visit: &mut impl FnMut(&str, &JSONSchemaProps)) {
    if TAKEN_OVER.contains(&path) {
        return;
    }
    for (name, property) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        visit(&path, property);
        walk(&path, property, visit);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        walk(&format!("{path}[]"), item, visit);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &schema.additional_properties {
        visit(&format!("{path}{{}}"), value);
    }
}

fn root() -> JSONSchemaProps {
    let crd = analytics_api::crd();
    crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap()
}

/// `kubectl explain` shows these descriptions; a field without one is a field nobody can use.
#[test]
fn every_field_has_a_description() {
    let mut missing = Vec::new();
    walk("", &root(), &mut |path, schema| {
        if !path.ends_with("{}") && schema.description.as_ref().is_none_or(String::is_empty) {
            missing.push(path.to_owned());
        }
    });
    assert!(missing.is_empty(), "fields without a description: {missing:?}");
}

/// An unbounded list or text makes CEL rules too expensive for the API server, and lets one object fill etcd.
#[test]
fn every_text_list_and_map_of_the_specification_is_bounded() {
    let mut unbounded = Vec::new();
    walk("", &root(), &mut |path, schema| {
        let bounded = match schema.type_.as_deref() {
            Some("string") => schema.max_length.is_some() || schema.enum_.is_some(),
            Some("array") => schema.max_items.is_some(),
            Some("integer") => schema.minimum.is_some() && schema.maximum.is_some(),
            Some("object") if schema.additional_properties.is_some() => schema.max_properties.is_some(),
            _ => true,
        };
        if path.starts_with(".spec") && !bounded {
            unbounded.push(path.to_owned());
        }
    });
    assert!(unbounded.is_empty(), "fields without a bound: {unbounded:?}");
}

/// A field that stays out of the specification takes the documented default, so that `kubectl get -o yaml` shows the whole intent.
#[test]
fn descriptions_that_promise_a_default_have_one_in_the_schema() {
    let mut missing = Vec::new();
    walk("", &root(), &mut |path, schema| {
        let promised =
            schema.description.as_ref().is_some_and(|description| description.contains("Default: "));
        if promised != schema.default.is_some()
            && schema.properties.as_ref().is_none_or(|p| p.is_empty())
            && schema.type_.as_deref() != Some("array")
            && schema.additional_properties.is_none()
        {
            missing.push(path.to_owned());
        }
    });
    assert!(
        missing.is_empty(),
        "default promised and not in the schema, or the other way round: {missing:?}"
    );
}

#[test]
fn null_is_nowhere_a_value() {
    walk("", &root(), &mut |path, schema| assert_ne!(schema.nullable, Some(true), "{path} is nullable"));
}

/// Users and tools rely on these names.
#[test]
fn names_and_subresources_are_as_documented() {
    let crd = analytics_api::crd();
    assert_eq!(crd.spec.names.short_names, Some(vec!["apl".to_owned()]));
    assert_eq!(crd.spec.names.categories, Some(vec!["analytics".to_owned()]));
    let version = &crd.spec.versions[0];
    let subresources = version.subresources.as_ref().unwrap();
    assert!(subresources.status.is_some());
    assert_eq!(subresources.scale.as_ref().unwrap().spec_replicas_path, ".spec.scaling.replicas");
    let columns: Vec<_> = version
        .additional_printer_columns
        .iter()
        .flatten()
        .filter(|column| column.priority.unwrap_or(0) == 0)
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(columns, ["Ready", "Replicas", "Lag", "Lag-seconds", "Rate", "Age"]);
}
