//! The only writer of the objects that run a pipeline: server-side apply with one field manager.
//!
//! What was applied and has not changed since is not applied again: a quiet pipeline costs the API server nothing.

use std::borrow::Cow;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::build::Objects;
use super::hash::digest;
use super::validate::ValidatedPipeline;
use super::{contest, migrate};
use crate::context::{Context, Memory};
use crate::error::Error;
use crate::shelf::{Kept, Owners, Shelf, Version, version};
use crate::trace;
use crate::watches::Stores;

const DEPLOYMENT: &str = "Deployment";

/// Who owns the fields that the controller sets.
pub(crate) const FIELD_MANAGER: &str = "analytics-controller";

/// For so long after it was made the watch may not show an object yet.
const SHOWN_AFTER: Duration = Duration::from_secs(10);

/// What was applied for one pipeline, by kind and name: a handful of objects.
#[derive(Debug, Default)]
pub(crate) struct AppliedObjects(Vec<(Kind, Box<str>, Applied)>);

type Kind = Cow<'static, str>;

impl AppliedObjects {
    fn get(&self, kind: &str, name: &str) -> Option<&Applied> {
        self.0.iter().find(|object| is(object, kind, name)).map(|(_, _, applied)| applied)
    }

    fn insert(&mut self, kind: Kind, name: &str, applied: Applied) {
        self.remove(&kind, name);
        // Half of what a Vec takes at its own discretion would stay empty, for every pipeline.
        self.0.reserve_exact(1);
        self.0.push((kind, name.into(), applied));
    }

    fn remove(&mut self, kind: &str, name: &str) {
        self.0.retain(|object| !is(object, kind, name));
    }

    /// Forgets all, so that all is applied again.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

fn is((kind, name, _): &(Kind, Box<str>, Applied), wanted: &str, named: &str) -> bool {
    kind == wanted && **name == *named
}

/// What was applied, and which version of the object came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Applied {
    wanted: u64,
    version: Version,
    /// When. For a moment the watch may not show an object that is new.
    when: Instant,
}

/// How an object looks beside what was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    /// As applied.
    Same,
    /// Something else is wanted now, or the watch has not shown the last write yet.
    Outdated,
    /// Somebody else changed or deleted it.
    ChangedByOthers,
}

impl Applied {
    // `seen` is `None` for an object that is not there. An older version than the applied one is what the watch shows until
    // it has caught up.
    fn compare(&self, wanted: u64, seen: Version, now: Instant) -> Comparison {
        let behind = match seen {
            Some(_) => seen < self.version,
            None => now.saturating_duration_since(self.when) < SHOWN_AFTER,
        };
        if self.wanted != wanted || behind {
            Comparison::Outdated
        } else if seen == self.version {
            Comparison::Same
        } else {
            Comparison::ChangedByOthers
        }
    }
}

/// What part of the objects is to be applied now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All: the migration is through, or nobody waits for it.
    All,
    /// What the migration needs; consumers that run go on as they are.
    Migration,
    /// The same, with a new Job in place of one that waits too long for its next attempt.
    MigrationAnew,
}

/// Applies the objects, and says which of them somebody else had changed or deleted. (client required)
///
/// Order: the ServiceAccount that pods name and the NetworkPolicy that lets them out, then the migration; configuration before the Deployment that mounts it; the
/// Deployment last. A field that is new in [`Objects`] does not compile until it is applied here.
pub(crate) async fn run(
    pipeline: &ValidatedPipeline,
    objects: Objects,
    extent: Extent,
    context: &Context,
    memory: &mut Memory,
) -> Result<Vec<String>, Error> {
    let Objects { service_account, config_map, service, budget, network_policy, migration, deployment } =
        objects;
    // A pipeline of a namespace that is not watched is not reconciled.
    let Some(stores) = context.stores.get(&pipeline.namespace) else { return Ok(Vec::new()) };
    let mut writer = Writer { pipeline, context, stores, memory, put_right: Vec::new() };
    writer.apply(&service_account, &stores.service_accounts).await?;
    writer.apply_or_delete(network_policy.as_ref(), &stores.network_policies).await?;
    if !pipeline.spec.suspend {
        // A deleted Job is made again by the next reconcile.
        let current = (extent != Extent::MigrationAnew).then(|| migration.name_any());
        if current.is_some() {
            writer.create_once(&migration, &stores.jobs).await?;
        }
        writer.delete_jobs_except(current.as_deref()).await?;
    }
    if extent != Extent::All {
        return Ok(writer.put_right);
    }
    writer.apply(&config_map, &stores.config_maps).await?;
    writer.apply(&service, &stores.services).await?;
    writer.apply_or_delete(budget.as_ref(), &stores.budgets).await?;
    writer.apply(&deployment, &stores.deployments).await?;
    Ok(writer.put_right)
}

/// The version of the consumers' Deployment, as the watch shows it. (no client required)
pub(crate) fn seen_version(pipeline: &ValidatedPipeline, context: &Context) -> Version {
    let stores = context.stores.get(&pipeline.namespace)?;
    stores.version(DEPLOYMENT, &pipeline.namespace, &analytics_api::labels::consumer_name(&pipeline.name))
}

/// The version that came of the last apply of the consumers' Deployment. (no client required)
pub(crate) fn applied_version(pipeline: &ValidatedPipeline, memory: &Memory) -> Version {
    let name = analytics_api::labels::consumer_name(&pipeline.name);
    memory.applied.get(DEPLOYMENT, &name)?.version
}

/// Who, other than the operator, has last set the replicas of the Deployment; `None` if that cannot be told. (client required)
pub(crate) async fn who_scales(pipeline: &ValidatedPipeline, context: &Context) -> Option<String> {
    let api = Api::<Deployment>::namespaced(context.client.clone(), &pipeline.namespace);
    let found = api.get_metadata(&analytics_api::labels::consumer_name(&pipeline.name)).await.ok()?;
    contest::manager_of_replicas(&found.metadata.managed_fields.unwrap_or_default(), FIELD_MANAGER)
}

/// Whether everything that was applied is as it was left, by what the watches show. (no client required)
pub(crate) fn is_untouched(
    pipeline: &ValidatedPipeline,
    job: &str,
    context: &Context,
    memory: &Memory,
) -> bool {
    let Some(stores) = context.stores.get(&pipeline.namespace) else { return true };
    let namespace = pipeline.namespace.as_str();
    let job = || stores.jobs.get(namespace, job).is_some();
    let name = analytics_api::labels::consumer_name(&pipeline.name);
    // One that is not wanted may have been left, or be somebody else's: that is looked at each time.
    let no_other = |kind: &str| {
        memory.applied.get(kind, &name).is_some() || stores.version(kind, namespace, &name).is_none()
    };
    let mut applied = memory.applied.0.iter();
    applied.all(|(kind, name, applied)| stores.version(kind, namespace, name) == applied.version)
        && (pipeline.spec.suspend || job())
        && no_other("PodDisruptionBudget")
        && no_other("NetworkPolicy")
}

impl Stores {
    // The version of one of the objects above; `None` if it is not there.
    fn version(&self, kind: &str, namespace: &str, name: &str) -> Version {
        fn of<V: Kept + Clone>(shelf: &Shelf<V>, namespace: &str, name: &str) -> Version {
            shelf.get(namespace, name)?.seen().version
        }
        match kind {
            "ServiceAccount" => of(&self.service_accounts, namespace, name),
            "ConfigMap" => of(&self.config_maps, namespace, name),
            "Service" => of(&self.services, namespace, name),
            "PodDisruptionBudget" => of(&self.budgets, namespace, name),
            "NetworkPolicy" => of(&self.network_policies, namespace, name),
            DEPLOYMENT => of(&self.deployments, namespace, name),
            _ => None,
        }
    }
}

/// Sets the replicas of the Deployment and leaves all else as it is. (client required)
pub(crate) async fn set_replicas(
    context: &Context,
    namespace: &str,
    name: &str,
    replicas: i32,
) -> Result<(), Error> {
    let api = Api::<Deployment>::namespaced(context.client.clone(), namespace);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let written = trace::write(DEPLOYMENT, name, api.patch(name, &parameters, &patch)).await;
    written.map(|_| context.metrics.wrote(DEPLOYMENT)).map_err(|source| Error::Apply {
        kind: DEPLOYMENT.to_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    })
}

struct Writer<'a> {
    pipeline: &'a ValidatedPipeline,
    context: &'a Context,
    stores: &'a Stores,
    memory: &'a mut Memory,
    put_right: Vec<String>,
}

impl Writer<'_> {
    async fn apply<K, V>(&mut self, object: &K, shelf: &Shelf<V>) -> Result<(), Error>
    where
        K: Object,
        V: Kept + Clone,
    {
        let (kind, name) = (K::kind(&()), object.name_any());
        let wanted = fingerprint(object);
        let seen = shelf.get(&self.pipeline.namespace, &name);
        let known = self.memory.applied.get(&kind, &name);
        let before = seen.as_ref().and_then(|seen| seen.seen().version);
        match known.map(|applied| applied.compare(wanted, before, Instant::now())) {
            Some(Comparison::Same) => return Ok(()),
            Some(Comparison::ChangedByOthers) => self.put_right.push(format!("{kind} `{name}`")),
            Some(Comparison::Outdated) | None => {}
        }
        let api = Api::<K>::namespaced(self.context.client.clone(), &self.pipeline.namespace);
        self.make_sure_it_is_ours(&api, &kind, &name, seen.as_ref().map(|seen| &seen.seen().owners)).await?;
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(object);
        let written = trace::write(&kind, &name, api.patch(&name, &parameters, &patch));
        let written = written.await.map_err(|source| Error::Apply {
            kind: kind.to_string(),
            name: name.clone(),
            source: Box::new(source),
        })?;
        self.context.metrics.wrote(&kind);
        let applied = Applied { wanted, version: version(written.meta()), when: Instant::now() };
        self.memory.applied.insert(kind, &name, applied);
        Ok(())
    }

    // A Job cannot be changed once it is made.
    async fn create_once<K, V>(&mut self, object: &K, shelf: &Shelf<V>) -> Result<(), Error>
    where
        K: Object,
        V: Kept + Clone,
    {
        let (kind, name) = (K::kind(&()).into_owned(), object.name_any());
        if let Some(seen) = shelf.get(&self.pipeline.namespace, &name) {
            return self.check_owner(&kind, &name, &seen.seen().owners);
        }
        let api = Api::<K>::namespaced(self.context.client.clone(), &self.pipeline.namespace);
        let parameters =
            PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match trace::write(&kind, &name, api.create(&parameters, object)).await {
            Ok(_) => {
                self.context.metrics.wrote(&kind);
                Ok(())
            }
            // It is there, and the watch has not told yet.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(source) => Err(Error::Apply { kind, name, source: Box::new(source) }),
        }
    }

    // Server-side apply would take over a foreign object of the same name without a word.
    async fn make_sure_it_is_ours<K: Object>(
        &self,
        api: &Api<K>,
        kind: &str,
        name: &str,
        seen: Option<&Owners>,
    ) -> Result<(), Error> {
        if let Some(owners) = seen {
            return self.check_owner(kind, name, owners);
        }
        let found = api.get_metadata_opt(name).await.map_err(|source| Error::Read {
            kind: kind.to_owned(),
            name: name.to_owned(),
            source: Box::new(source),
        })?;
        found.map_or(Ok(()), |found| self.check_owner(kind, name, &Owners::of(&found.metadata)))
    }

    fn check_owner(&self, kind: &str, name: &str, owners: &Owners) -> Result<(), Error> {
        let owner = &self.pipeline.owner;
        if owners.have(&owner.uid) {
            return Ok(());
        }
        let (kind, name) = (kind.to_owned(), name.to_owned());
        Err(if owners.have_named(&owner.name) {
            Error::Leftover { kind, name }
        } else {
            Error::Foreign { kind, name }
        })
    }

    // An object that not every pipeline has. One that belongs to somebody else is in nobody's way while none is wanted.
    async fn apply_or_delete<K, V>(&mut self, object: Option<&K>, shelf: &Shelf<V>) -> Result<(), Error>
    where
        K: Object,
        V: Kept + Clone,
    {
        if let Some(object) = object {
            return self.apply(object, shelf).await;
        }
        let name = analytics_api::labels::consumer_name(&self.pipeline.name);
        let seen = shelf.get(&self.pipeline.namespace, &name);
        if seen.is_none_or(|seen| self.check_owner("", "", &seen.seen().owners).is_err()) {
            return Ok(());
        }
        let kind = K::kind(&()).into_owned();
        self.memory.applied.remove(&kind, &name);
        let api = Api::<K>::namespaced(self.context.client.clone(), &self.pipeline.namespace);
        delete(&api, &kind, &name, self.context).await
    }

    async fn delete_jobs_except(&mut self, current: Option<&str>) -> Result<(), Error> {
        let namespace = &self.pipeline.namespace;
        let uid = &self.pipeline.owner.uid;
        let mut outdated = self.stores.jobs.names(namespace, |job| migrate::is_outdated(job, uid));
        outdated.retain(|name| Some(name.as_str()) != current);
        let api = Api::<k8s_openapi::api::batch::v1::Job>::namespaced(self.context.client.clone(), namespace);
        for name in outdated {
            delete(&api, "Job", &name, self.context).await?;
        }
        Ok(())
    }
}

async fn delete<K: Object>(api: &Api<K>, kind: &str, name: &str, context: &Context) -> Result<(), Error> {
    match trace::write(kind, name, api.delete(name, &DeleteParams::background())).await {
        Ok(_) => {
            context.metrics.wrote(kind);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => {
            Err(Error::Delete { kind: kind.to_owned(), name: name.to_owned(), source: Box::new(source) })
        }
    }
}

/// What all kinds of objects here have in common.
trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
{
}

fn fingerprint(object: &impl Serialize) -> u64 {
    // An object that has no JSON form cannot be sent either, and that is where the error is told.
    let text = serde_json::to_string(object).unwrap_or_default();
    u64::from_le_bytes(digest(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write of one's own that the watch has not shown yet must not look like the hand of another.
    #[test]
    fn changes_by_others_are_told_from_own_writes() {
        let table = [
            (0, 1, Some(2), Comparison::Same),
            (60, 1, Some(2), Comparison::Same),
            (60, 2, Some(2), Comparison::Outdated),
            (60, 2, Some(3), Comparison::Outdated),
            (60, 1, Some(1), Comparison::Outdated),
            (1, 1, None, Comparison::Outdated),
            (60, 1, None, Comparison::ChangedByOthers),
            (60, 1, Some(3), Comparison::ChangedByOthers),
        ];
        let when = Instant::now();
        for (seconds, wanted, seen, expected) in table {
            let applied = Applied { wanted: 1, version: Some(2), when };
            let now = when + Duration::from_secs(seconds);
            assert_eq!(applied.compare(wanted, seen, now), expected, "{seconds} {wanted} {seen:?}");
        }
    }

    #[test]
    fn each_object_is_known_by_what_was_applied_last() {
        let applied = |wanted| Applied { wanted, version: Some(wanted), when: Instant::now() };
        let mut objects = AppliedObjects::default();
        for (kind, name, wanted) in
            [("Service", "a", 1), ("ConfigMap", "a", 2), ("Service", "b", 3), ("Service", "a", 4)]
        {
            objects.insert(kind.into(), name, applied(wanted));
        }
        let known = |objects: &AppliedObjects| {
            [("Service", "a"), ("ConfigMap", "a"), ("Service", "b"), ("ConfigMap", "b")]
                .map(|(kind, name)| objects.get(kind, name).map(|applied| applied.wanted))
        };
        assert_eq!(known(&objects), [Some(4), Some(2), Some(3), None]);
        objects.remove("Service", "a");
        assert_eq!(known(&objects), [None, Some(2), Some(3), None]);
        objects.clear();
        assert_eq!(known(&objects), [None; 4]);
    }
}
