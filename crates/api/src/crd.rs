//! The CustomResourceDefinition, from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::AnalyticsPipeline;

/// The CustomResourceDefinition of [`AnalyticsPipeline`], ready to be applied.
///
/// The derived schema marks every optional field as nullable; here that mark is taken away, so that the API server drops an
/// explicit `null` and applies the default, and `has()` in a CEL rule means what it says.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = AnalyticsPipeline::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            forbid_null(schema);
        }
    }
    crd
}

fn forbid_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        forbid_null(property);
    }
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(item)) => forbid_null(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(forbid_null),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = schema.additional_properties.as_mut() {
        forbid_null(value);
    }
}
