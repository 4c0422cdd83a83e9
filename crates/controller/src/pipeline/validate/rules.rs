//! The rules of the schema, asked here: the API server asks them too, but objects stored before a rule existed were never asked.

use std::sync::LazyLock;

use analytics_api::{AnalyticsPipeline, crd};
use kube::core::cel::{CompiledSchema, Validator, compile_schema};

/// Compiled once: that takes two hundred times as long as asking them of one pipeline.
static RULES: LazyLock<CompiledSchema> = LazyLock::new(|| {
    let schema = crd().spec.versions.into_iter().next().and_then(|version| version.schema);
    // The definition is made by this program, and has a JSON form: it is printed by the command `crd`.
    let schema = schema.and_then(|schema| serde_json::to_value(schema.open_api_v3_schema).ok());
    compile_schema(&schema.unwrap_or_default())
});

/// The rules that the pipeline breaks, in the words of the schema. (no client required)
pub(super) fn broken(pipeline: &AnalyticsPipeline) -> Option<String> {
    let object = match serde_json::to_value(pipeline) {
        Ok(object) => object,
        Err(error) => return Some(error.to_string()),
    };
    let outcome = Validator::new().validate_compiled(&RULES, &object, None);
    outcome.err().map(|errors| errors.to_string().replace('\n', "; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    /// What was compiled once must say the same as what is compiled each time.
    #[test]
    fn every_rule_is_asked_and_says_the_same() {
        let table = [
            ("{}", true),
            (r#"{"scaling": {"minReplicas": 3, "maxReplicas": 2}}"#, false),
            (r#"{"sink": {"table": "dead_letters"}}"#, false),
            (r#"{"source": {"security": {"protocol": "SASL_SSL"}}}"#, false),
            (r#"{"source": {"properties": {"group.id": "x"}}}"#, false),
            (r#"{"scaling": {"mode": "Fixed", "replicas": 3}}"#, true),
        ];
        for (spec, good) in table {
            let pipeline = fixtures::pipeline(spec);
            let expected = pipeline.validate_cel().err().map(|errors| errors.to_string().replace('\n', "; "));
            assert_eq!(broken(&pipeline), expected, "{spec}");
            assert_eq!(expected.is_none(), good, "{spec}: {expected:?}");
        }
    }
}
