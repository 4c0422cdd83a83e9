//! The part of OpenAPI v3 that structural schemas of Kubernetes use, checked as the API server does with
//! `fieldValidation=Strict`: <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>.

use std::collections::HashSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex::Regex;
use serde_json::{Map, Value};

/// Everything in `value` that the schema forbids, each with its path; the parts that the API server itself adds are passed over.
pub(super) fn check(schema: &JSONSchemaProps, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let Value::Object(fields) = value else { return vec!["is no object".to_owned()] };
    for (name, field) in fields {
        match schema.properties.as_ref().and_then(|properties| properties.get(name)) {
            Some(property) => walk(property, field, name, &mut faults),
            None if ["apiVersion", "kind", "metadata"].contains(&name.as_str()) => {}
            None => faults.push(format!("unknown field {name}")),
        }
    }
    require(schema, fields, "", &mut faults);
    faults
}

fn walk(schema: &JSONSchemaProps, value: &Value, path: &str, faults: &mut Vec<String>) {
    // An explicit null is dropped by the API server, and the default takes its place.
    if value.is_null() || schema.x_kubernetes_preserve_unknown_fields == Some(true) {
        return;
    }
    if let Some(fault) = wrong_type(schema, value) {
        faults.push(format!("{path}: {fault}"));
        return;
    }
    if let Some(allowed) = schema.enum_.as_ref().filter(|allowed| !allowed.iter().any(|one| one.0 == *value))
    {
        let words: Vec<String> = allowed.iter().map(|one| one.0.to_string()).collect();
        faults.push(format!("{path}: Unsupported value: {value}: supported values: {}", words.join(", ")));
    }
    match value {
        Value::String(text) => string(schema, text, path, faults),
        Value::Number(number) => bounds(schema, number.as_f64().unwrap_or_default(), path, faults),
        Value::Array(items) => array(schema, items, path, faults),
        Value::Object(fields) => object(schema, fields, path, faults),
        Value::Null | Value::Bool(_) => {}
    }
}

fn wrong_type(schema: &JSONSchemaProps, value: &Value) -> Option<String> {
    let integer = value.as_i64().is_some();
    if schema.x_kubernetes_int_or_string == Some(true) {
        return (!integer && !value.is_string()).then(|| "must be an integer or a string".to_owned());
    }
    let fits = match schema.type_.as_deref()? {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => integer,
        "number" => value.is_number(),
        _ => true,
    };
    (!fits).then(|| format!("must be of type {}, not {value}", schema.type_.as_deref().unwrap_or_default()))
}

fn string(schema: &JSONSchemaProps, text: &str, path: &str, faults: &mut Vec<String>) {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if let Some(least) = schema.min_length.filter(|least| length < *least) {
        faults.push(format!("{path}: must be at least {least} characters long"));
    }
    if let Some(most) = schema.max_length.filter(|most| length > *most) {
        faults.push(format!("{path}: must be at most {most} characters long"));
    }
    let pattern = schema
        .pattern
        .as_ref()
        .filter(|pattern| Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text)));
    if let Some(pattern) = pattern {
        faults.push(format!("{path}: `{text}` must match {pattern}"));
    }
}

fn bounds(schema: &JSONSchemaProps, number: f64, path: &str, faults: &mut Vec<String>) {
    if let Some(least) = schema.minimum.filter(|least| number < *least) {
        faults.push(format!("{path}: must be greater than or equal to {least}, not {number}"));
    }
    if let Some(most) = schema.maximum.filter(|most| number > *most) {
        faults.push(format!("{path}: must be less than or equal to {most}, not {number}"));
    }
}

fn array(schema: &JSONSchemaProps, items: &[Value], path: &str, faults: &mut Vec<String>) {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if let Some(most) = schema.max_items.filter(|most| length > *most) {
        faults.push(format!("{path}: must have at most {most} items"));
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        for (index, value) in items.iter().enumerate() {
            walk(item, value, &format!("{path}[{index}]"), faults);
        }
    }
    let keys = schema.x_kubernetes_list_map_keys.iter().flatten();
    for key in keys {
        let mut seen = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            if !seen.insert(item[key].to_string()) {
                faults.push(format!("{path}[{index}]: Duplicate value: {}", item[key]));
            }
        }
    }
}

fn object(schema: &JSONSchemaProps, fields: &Map<String, Value>, path: &str, faults: &mut Vec<String>) {
    let length = i64::try_from(fields.len()).unwrap_or(i64::MAX);
    if let Some(most) = schema.max_properties.filter(|most| length > *most) {
        faults.push(format!("{path}: must have at most {most} entries"));
    }
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        let property = schema.properties.as_ref().and_then(|properties| properties.get(name));
        match (property, &schema.additional_properties) {
            (Some(property), _) => walk(property, value, &path, faults),
            (None, Some(JSONSchemaPropsOrBool::Schema(property))) => walk(property, value, &path, faults),
            (None, Some(JSONSchemaPropsOrBool::Bool(true))) => {}
            _ => faults.push(format!("unknown field {path}")),
        }
    }
    require(schema, fields, path, faults);
}

fn require(schema: &JSONSchemaProps, fields: &Map<String, Value>, path: &str, faults: &mut Vec<String>) {
    let missing =
        schema.required.iter().flatten().filter(|name| fields.get(*name).is_none_or(Value::is_null));
    faults.extend(
        missing.map(|name| format!("{path}.{name}: Required value").trim_start_matches('.').to_owned()),
    );
}
