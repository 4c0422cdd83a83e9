//! What is remembered of watched objects: the few things that are asked of them, and not the objects. There are half a dozen for
//! each pipeline, and even slimmed each would take more than a kilobyte.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use analytics_api::AnalyticsPipeline;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use kube::api::ObjectMeta;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::pipeline::hash::digest;

/// Tells whether an object's wanted part has changed: its generation, or for kinds without one its resource version.
/// Both only grow.
pub(crate) type Version = Option<u64>;

/// Version and owners of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Its version.
    pub(crate) version: Version,
    /// Whose it is.
    pub(crate) owners: Owners,
}

/// The pipelines that own an object; other kinds of owners do not matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owners {
    /// None.
    #[default]
    None,
    /// One, as it should be.
    One(Owner),
    /// Somebody has added others.
    Many(Box<[Owner]>),
}

/// A pipeline, by the hashes of its uid and its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    uid: Id,
    name: Id,
}

type Id = [u8; 16];

impl Owners {
    /// Those of an object.
    pub(crate) fn of(metadata: &ObjectMeta) -> Self {
        let kind = AnalyticsPipeline::kind(&());
        let owners = metadata.owner_references.iter().flatten().filter(|owner| owner.kind == kind);
        let owners: Vec<_> =
            owners.map(|owner| Owner { uid: digest(&owner.uid), name: digest(&owner.name) }).collect();
        match owners.as_slice() {
            [] => Self::None,
            [one] => Self::One(*one),
            _ => Self::Many(owners.into()),
        }
    }

    fn all(&self) -> &[Owner] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// Whether the pipeline with this uid is among them.
    pub(crate) fn have(&self, uid: &str) -> bool {
        let uid = digest(uid);
        self.all().iter().any(|owner| owner.uid == uid)
    }

    /// Whether a pipeline of this name is among them: perhaps one that was there before.
    pub(crate) fn have_named(&self, name: &str) -> bool {
        let name = digest(name);
        self.all().iter().any(|owner| owner.name == name)
    }
}

/// The version of an object.
pub(crate) fn version(metadata: &ObjectMeta) -> Version {
    let generation = metadata.generation.and_then(|generation| u64::try_from(generation).ok());
    generation.or_else(|| metadata.resource_version.as_ref()?.parse().ok())
}

/// What is remembered of an object.
pub(crate) trait Kept {
    /// Version and owners, which is remembered of all.
    fn seen(&self) -> &Seen;
}

impl Kept for Seen {
    fn seen(&self) -> &Seen {
        self
    }
}

impl Seen {
    /// What is remembered of any object.
    pub(crate) fn of<K: Resource>(object: &K) -> Self {
        Self { version: version(object.meta()), owners: Owners::of(object.meta()) }
    }
}

/// What is remembered of the consumers' Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Consumers {
    seen: Seen,
    /// Replicas that it asks for.
    pub(crate) spec: i32,
    /// Pods that it counts.
    pub(crate) existing: i32,
    /// Those that are ready.
    pub(crate) ready: i32,
    /// Those of the newest kind.
    pub(crate) updated: i32,
    /// Its controller has not seen its last change yet.
    pub(crate) behind: bool,
}

impl Consumers {
    /// Of a Deployment.
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let status = deployment.status.as_ref();
        let count = |part: fn(&k8s_openapi::api::apps::v1::DeploymentStatus) -> Option<i32>| {
            status.and_then(part).unwrap_or(0)
        };
        Self {
            seen: Seen::of(deployment),
            spec: deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            existing: count(|status| status.replicas),
            ready: count(|status| status.ready_replicas),
            updated: count(|status| status.updated_replicas),
            behind: status.and_then(|status| status.observed_generation) < deployment.metadata.generation,
        }
    }
}

impl Kept for Consumers {
    fn seen(&self) -> &Seen {
        &self.seen
    }
}

/// What is remembered of a migration's Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Migrated {
    seen: Seen,
    /// It has run to its end.
    pub(crate) succeeded: bool,
    /// It is being deleted.
    pub(crate) going: bool,
}

impl Migrated {
    /// Of a Job.
    pub(crate) fn of(job: &Job) -> Self {
        let succeeded = job.status.as_ref().and_then(|status| status.succeeded);
        Self {
            seen: Seen::of(job),
            succeeded: succeeded.unwrap_or(0) > 0,
            going: job.metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Kept for Migrated {
    fn seen(&self) -> &Seen {
        &self.seen
    }
}

/// What is remembered of the objects of one kind, by namespace and name; shared by all parts.
#[derive(Debug)]
pub(crate) struct Shelf<V> {
    held: Arc<Mutex<Held<V>>>,
    listed: CancellationToken,
}

type ByName<V> = HashMap<Box<str>, HashMap<Box<str>, V>>;

#[derive(Debug)]
struct Held<V> {
    known: ByName<V>,
    /// What a list has brought that is not complete yet.
    listing: ByName<V>,
}

impl<V> Clone for Shelf<V> {
    fn clone(&self) -> Self {
        Self { held: Arc::clone(&self.held), listed: self.listed.clone() }
    }
}

impl<V> Default for Shelf<V> {
    fn default() -> Self {
        let held = Held { known: ByName::new(), listing: ByName::new() };
        Self { held: Arc::new(Mutex::new(held)), listed: CancellationToken::new() }
    }
}

impl<V: Clone> Shelf<V> {
    /// Takes what a watch has to say, of which `keep` is remembered.
    pub(crate) fn take<K: Resource>(&self, event: &Event<K>, keep: impl Fn(&K) -> V) {
        let mut held = self.lock();
        match event {
            Event::Apply(object) => put(&mut held.known, object, keep(object)),
            Event::Delete(object) => {
                let namespace = object.namespace().unwrap_or_default();
                if let Some(of_namespace) = held.known.get_mut(namespace.as_str()) {
                    of_namespace.remove(object.name_any().as_str());
                    if of_namespace.is_empty() {
                        held.known.remove(namespace.as_str());
                    }
                }
            }
            Event::Init => held.listing.clear(),
            Event::InitApply(object) => put(&mut held.listing, object, keep(object)),
            Event::InitDone => {
                held.known = std::mem::take(&mut held.listing);
                self.listed.cancel();
            }
        }
    }

    /// What is remembered of an object; `None` if it is not there.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<V> {
        self.lock().known.get(namespace)?.get(name).cloned()
    }

    /// Names of the objects of a namespace for which `is` is true.
    pub(crate) fn names(&self, namespace: &str, is: impl Fn(&V) -> bool) -> Vec<String> {
        let held = self.lock();
        let of_namespace = held.known.get(namespace).into_iter().flatten();
        of_namespace.filter(|(_, kept)| is(kept)).map(|(name, _)| name.to_string()).collect()
    }

    /// Waits until the watch has listed what there is.
    pub(crate) async fn ready(&self) {
        self.listed.cancelled().await;
    }

    fn lock(&self) -> MutexGuard<'_, Held<V>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put<V>(to: &mut ByName<V>, object: &impl ResourceExt, kept: V) {
    let namespace = object.namespace().unwrap_or_default();
    let of_namespace = match to.get_mut(namespace.as_str()) {
        Some(of_namespace) => of_namespace,
        None => to.entry(namespace.into()).or_default(),
    };
    of_namespace.insert(object.name_any().into(), kept);
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    fn service(name: &str, version: &str, owners: &[(&str, &str, &str)]) -> Service {
        let owners: Vec<_> = owners
            .iter()
            .map(|(kind, name, uid)| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}))
            .collect();
        serde_json::from_value(json!({"metadata": {
            "name": name, "namespace": "shop", "resourceVersion": version, "ownerReferences": owners
        }}))
        .unwrap()
    }

    #[test]
    fn it_holds_what_the_watch_has_shown() {
        let shelf = Shelf::default();
        let take = |event| shelf.take(&event, Seen::of::<Service>);
        let version = |name| shelf.get("shop", name).and_then(|seen: Seen| seen.version);
        take(Event::Init);
        take(Event::InitApply(service("a", "1", &[])));
        assert_eq!(version("a"), None, "the list is not complete");
        assert!(!shelf.listed.is_cancelled());
        take(Event::InitDone);
        assert!(shelf.listed.is_cancelled());
        take(Event::Apply(service("b", "2", &[])));
        assert_eq!((version("a"), version("b"), version("c")), (Some(1), Some(2), None));
        take(Event::Apply(service("b", "3", &[])));
        take(Event::Delete(service("a", "1", &[])));
        assert_eq!((version("a"), version("b")), (None, Some(3)));
        // The watch begins anew, and something has gone meanwhile.
        take(Event::Init);
        assert_eq!(version("b"), Some(3), "known until the list is complete");
        take(Event::InitApply(service("c", "4", &[])));
        take(Event::InitDone);
        assert_eq!((version("b"), version("c")), (None, Some(4)));
        assert_eq!(shelf.names("shop", |_| true), ["c"]);
        assert_eq!(shelf.names("shop", |seen| seen.version == Some(1)), [""; 0]);
        assert_eq!(shelf.get("other", "c"), None);
    }

    #[test]
    fn whose_an_object_is_is_known_without_keeping_it() {
        let (mine, before) = (("AnalyticsPipeline", "clicks", "u1"), ("AnalyticsPipeline", "clicks", "u0"));
        let other = ("AnalyticsPipeline", "views", "u2");
        // Owners, whether the pipeline `clicks` of uid `u1` is among them, and whether one of its name is.
        type Owning<'a> = &'a [(&'a str, &'a str, &'a str)];
        let table: [(Owning<'_>, bool, bool); 6] = [
            (&[], false, false),
            (&[mine], true, true),
            (&[before], false, true),
            (&[other], false, false),
            (&[other, mine], true, true),
            (&[("ReplicaSet", "clicks", "u1")], false, false),
        ];
        for (owners, have, named) in table {
            let seen = Seen::of(&service("a", "1", owners));
            assert_eq!(
                (seen.owners.have("u1"), seen.owners.have_named("clicks")),
                (have, named),
                "{owners:?}"
            );
        }
    }
}
