//! The rights that the chart grants, held against what the operator has asked for.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::helm;

use crate::leader;
use crate::world::World;

/// Group, resource (with subresource) and verb.
type Right = (String, String, String);

/// Rights that a run of this length need not use, and why they are granted.
const SELDOM: [(&str, &str, &str); 1] = [
    // The same Event again, within minutes.
    ("events.k8s.io", "events", "patch"),
];

/// Whatever is granted and not used can be taken away; whatever is refused is missing.
pub(crate) async fn the_operator_uses_every_right_it_has_and_asks_for_no_other(world: &World) -> Result<()> {
    let log = std::fs::read_to_string(world.folder.path().join("audit.log")).context("no audit log")?;
    let mut used = BTreeSet::new();
    let mut refused = BTreeSet::new();
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let Some(right) = right_of(&event) else { continue };
        if event["annotations"]["authorization.k8s.io/decision"] == "forbid" {
            refused.insert(right);
        } else {
            used.insert(right);
        }
    }
    ensure!(used.len() > 10, "the audit log holds next to nothing: {used:?}");
    ensure!(refused.is_empty(), "the operator has asked for what it may not: {refused:#?}");
    // Server-side apply is a patch; that a new object needs the right to create as well is asked inside of that request, and
    // not written down.
    let applied = |(group, resource, verb): &Right| {
        verb == "create" && used.contains(&(group.clone(), resource.clone(), "patch".to_owned()))
    };
    // The Prometheus Operator is not on this cluster.
    let seldom = |right: &Right| {
        right.0 == "monitoring.coreos.com"
            || SELDOM.contains(&(right.0.as_str(), right.1.as_str(), right.2.as_str()))
    };
    let is_idle = |right: &Right| !used.contains(right) && !applied(right) && !seldom(right);
    let idle: Vec<_> = granted().await?.into_iter().filter(is_idle).collect();
    ensure!(idle.is_empty(), "granted, but never used: {idle:#?}");
    Ok(())
}

/// Of two controllers only the one that leads writes. Each change of the writer needs a change of the leader; one that was frozen
/// in the middle of a request may still send it when it wakes, which makes one more change there and one back.
pub(crate) async fn never_two_controllers_write(world: &World) -> Result<()> {
    let log = std::fs::read_to_string(world.folder.path().join("audit.log")).context("no audit log")?;
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut writes: Vec<(String, String)> = events.filter_map(|event| write_of(&event)).collect();
    writes.sort();
    writes.dedup_by(|later, earlier| later.1 == earlier.1);
    let writers: Vec<_> = writes.iter().map(|(_, writer)| writer.as_str()).collect();
    let transitions = leader::transitions(world).await?;
    eprintln!(
        "{} controllers wrote one after the other, with {transitions} changes of the leader",
        writers.len()
    );
    ensure!(writers.len() >= 2, "only one controller has ever written: {writers:?}");
    ensure!(
        writers.len() <= transitions + 3,
        "{transitions} changes of the leader, but they wrote in the order {writers:?}"
    );
    Ok(())
}

/// When a pipeline's status or object was written, and by which controller; Events and the Lease itself do not count.
fn write_of(event: &Value) -> Option<(String, String)> {
    let resource = event["objectRef"]["resource"].as_str()?;
    let writes = ["create", "patch", "update", "delete"].contains(&event["verb"].as_str()?);
    let pod = event["user"]["extra"]["authentication.kubernetes.io/pod-name"][0].as_str()?;
    let time = event["requestReceivedTimestamp"].as_str()?;
    (writes && !["leases", "events"].contains(&resource)).then(|| (time.to_owned(), pod.to_owned()))
}

fn right_of(event: &Value) -> Option<Right> {
    let object = event["objectRef"].as_object()?;
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut resource = text("resource");
    if object.contains_key("subresource") {
        resource = format!("{resource}/{}", text("subresource"));
    }
    Some((text("apiGroup"), resource, event["verb"].as_str()?.to_owned()))
}

/// What the roles of the controller grant, one by one.
async fn granted() -> Result<BTreeSet<Right>> {
    let text = helm::render(&json!({})).await?;
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let mut rights = BTreeSet::new();
    for role in helm::objects(&text)? {
        let name = role["metadata"]["name"].as_str().unwrap_or_default();
        if !["analytics-controller", "analytics-controller-leader-election"].contains(&name) {
            continue;
        }
        for rule in role["rules"].as_array().into_iter().flatten() {
            for group in strings(&rule["apiGroups"]) {
                for resource in strings(&rule["resources"]) {
                    for verb in strings(&rule["verbs"]) {
                        rights.insert((group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
    }
    ensure!(!rights.is_empty(), "the chart grants nothing");
    Ok(rights)
}
