//! `kubectl apl validate`: the rules of the API server, without one.
//!
//! The same definition that is installed on clusters is walked here: first the schema, then, if that holds, the CEL rules. Rules
//! about changes (fields that may not be changed) need the object before, so they are left to the cluster.

mod schema;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use analytics_api::AnalyticsPipeline;
use serde_json::Value;

use crate::cluster::Failure;

const KIND: &str = "AnalyticsPipeline";

/// Checks all files. Gives back what to print, and whether everything is good.
pub(crate) fn files(paths: &[PathBuf]) -> Result<(String, bool), Failure> {
    let (mut text, mut good) = (String::new(), true);
    for path in paths {
        let outcome = document(&read(path)?);
        good &= outcome.iter().all(|verdict| verdict.faults.is_empty());
        if outcome.is_empty() {
            text.push_str(&format!("{}: no {KIND} in it\n", path.display()));
        }
        for verdict in outcome {
            if verdict.faults.is_empty() {
                text.push_str(&format!("{}: {} is good\n", path.display(), verdict.name));
            }
            for fault in verdict.faults {
                text.push_str(&format!("{}: {}: {fault}\n", path.display(), verdict.name));
            }
        }
    }
    Ok((text, good))
}

/// Reads a file, or standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    let failed = |source| Failure::File { path: path.to_owned(), source };
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// What is to be said of one pipeline.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    name: String,
    faults: Vec<String>,
}

/// Checks every pipeline in a text of one or several YAML documents, lists among them.
fn document(text: &str) -> Vec<Verdict> {
    let documents: Vec<Value> = match serde_saphyr::from_multiple(text) {
        Ok(documents) => documents,
        Err(error) => {
            return vec![Verdict {
                name: "the file".to_owned(),
                faults: vec![format!("is no YAML: {error}")],
            }];
        }
    };
    let is_list = |object: &Value| object["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
    let objects = documents.iter().flat_map(|object| {
        if is_list(object) {
            object["items"].as_array().map_or(&[][..], Vec::as_slice).iter().collect()
        } else {
            vec![object]
        }
    });
    let pipelines = objects.filter(|object| object["kind"] == KIND);
    pipelines.map(|pipeline| Verdict { name: name(pipeline), faults: faults(pipeline) }).collect()
}

fn name(pipeline: &Value) -> String {
    pipeline["metadata"]["name"].as_str().unwrap_or("(without a name)").to_owned()
}

/// Everything that the API server would say against a new object like this; empty if nothing.
fn faults(pipeline: &Value) -> Vec<String> {
    let definition = analytics_api::crd();
    let versions =
        definition.spec.versions.iter().map(|version| format!("{}/{}", definition.spec.group, version.name));
    let supported: Vec<String> = versions.collect();
    if !supported.iter().any(|version| pipeline["apiVersion"] == version.as_str()) {
        return vec![format!(
            "apiVersion: must be {}, not {}",
            supported.join(" or "),
            pipeline["apiVersion"]
        )];
    }
    if !pipeline["metadata"]["name"].is_string() {
        return vec!["metadata.name: Required value".to_owned()];
    }
    let root = definition.spec.versions.first().and_then(|version| version.schema.clone());
    let faults =
        root.and_then(|schema| schema.open_api_v3_schema).map(|schema| schema::check(&schema, pipeline));
    let faults = faults.unwrap_or_default();
    if !faults.is_empty() {
        return faults;
    }
    match serde_json::from_value::<AnalyticsPipeline>(pipeline.clone()) {
        Ok(typed) => typed.validate_cel().err().map(|error| rules(&error.to_string())).unwrap_or_default(),
        Err(error) => vec![error.to_string()],
    }
}

fn rules(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Row {
        name: String,
        change: Value,
        before: Option<Value>,
    }

    fn table(text: &str) -> Vec<Row> {
        serde_saphyr::from_str(text).unwrap()
    }

    fn changed(patch: &Value) -> Value {
        let mut pipeline = serde_json::json!({
            "apiVersion": "analyticspipeline.dev/v1alpha1", "kind": KIND, "metadata": {"name": "first"},
            "spec": {
                "source": {"bootstrapServers": "kafka:9092", "topic": "user-events"},
                "sink": {"urlSecretRef": {"name": "analytics-db"}},
            },
        });
        merge(&mut pipeline, patch);
        pipeline
    }

    fn merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = serde_json::json!({});
        }
        for (key, value) in patch {
            if value.is_null() {
                target.as_object_mut().into_iter().for_each(|target| drop(target.remove(key)));
            } else {
                merge(&mut target[key], value);
            }
        }
    }

    /// The tables that the API server is held to are held against this, too.
    #[test]
    fn what_the_api_server_takes_is_good_here() {
        for row in table(include_str!("../../../tests/tests/admission/good.yaml")) {
            assert_eq!(faults(&changed(&row.change)), [""; 0], "{}", row.name);
        }
    }

    #[test]
    fn what_the_api_server_refuses_is_refused_here() {
        let rows = table(include_str!("../../../tests/tests/admission/bad.yaml"));
        for row in rows.iter().filter(|row| row.before.is_none()) {
            assert_ne!(faults(&changed(&row.change)), [""; 0], "{} is taken", row.name);
        }
    }

    #[test]
    fn files_hold_several_documents_lists_and_other_kinds() {
        let text = "kind: Secret\n---\nkind: List\nitems:\n- {kind: AnalyticsPipeline, apiVersion: analyticspipeline.dev/v1, metadata: {name: a}}\n---\n";
        let verdicts = document(text);
        assert_eq!(verdicts.len(), 1);
        assert_eq!(verdicts[0].name, "a");
        assert!(verdicts[0].faults[0].contains("must be analyticspipeline.dev/v1alpha1"), "{verdicts:?}");
        assert!(document("a: [").iter().any(|verdict| verdict.faults[0].contains("is no YAML")));
    }

    #[test]
    fn the_committed_sample_is_good() {
        let verdicts = document(include_str!("../../../manifests/samples/user-events.yaml"));
        assert_eq!(verdicts, [Verdict { name: "user-events".to_owned(), faults: vec![] }]);
    }
}
