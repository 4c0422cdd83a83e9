//! Objects by what they have in common, so that a reconcile need not look at all of them.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::{Lookup, Store};

/// What objects have in common.
type Key = (String, String);

/// Counts what a watch has changed in its store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes(Arc<AtomicU64>);

impl Changes {
    /// The store has changed.
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A watch's store and, made anew after each change of it, the same by key.
pub(crate) struct Index<K>
where
    K: Lookup + Clone + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    store: Store<K>,
    changes: Changes,
    key: fn(&K) -> Option<Key>,
    by_key: Mutex<ByKey<K>>,
    made: Instant,
}

/// How many changes it knows of, and the objects.
type ByKey<K> = (Option<u64>, HashMap<Key, Vec<Arc<K>>>);

impl<K> Index<K>
where
    K: Lookup + Clone + Debug + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    /// An index of what is in `store`. `changes` has to be told of each change after the store has it; objects without a key
    /// are left out.
    pub(crate) fn new(store: Store<K>, changes: Changes, key: fn(&K) -> Option<Key>) -> Self {
        Self { store, changes, key, by_key: Mutex::default(), made: Instant::now() }
    }

    /// Waits until the watch has listed what there is. False if the watch has ended.
    pub(crate) async fn ready(&self) -> bool {
        self.store.wait_until_ready().await.is_ok()
    }

    /// The same, but no longer than for so long since this was made. True if everything is there.
    pub(crate) async fn ready_within(&self, limit: Duration) -> bool {
        let left = limit.saturating_sub(self.made.elapsed());
        tokio::time::timeout(left, self.ready()).await.unwrap_or(false)
    }

    /// All objects, those without a key too.
    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// The objects that have this key.
    pub(crate) fn get(&self, key: &Key) -> Vec<Arc<K>> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before the store is read: what comes between is seen, and seen again.
        let count = self.changes.count();
        if by_key.0 != Some(count) {
            let mut objects: HashMap<Key, Vec<Arc<K>>> = HashMap::new();
            for object in self.store.state() {
                if let Some(key) = (self.key)(&object) {
                    objects.entry(key).or_default().push(object);
                }
            }
            *by_key = (Some(count), objects);
        }
        by_key.1.get(key).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt as _;
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    use super::*;

    fn pod(name: &str, of: Option<&str>) -> Pod {
        let labels = of.map(|of| json!({"of": of}));
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop", "labels": labels}}))
            .unwrap()
    }

    fn key(pod: &Pod) -> Option<Key> {
        Some((pod.metadata.namespace.clone()?, pod.labels().get("of")?.clone()))
    }

    /// What was not listed yet may be there; but a namespace that may not be read must not hold up the others for ever.
    #[tokio::test]
    async fn it_is_ready_when_everything_was_listed_or_given_up_after_a_while() {
        let (store, mut writer) = reflector::store();
        let index = Index::new(store, Changes::default(), key);
        assert!(!index.ready_within(Duration::from_millis(50)).await);
        let early = tokio::time::timeout(Duration::from_millis(50), index.ready()).await;
        assert!(early.is_err(), "{early:?}");
        for event in
            [watcher::Event::Init, watcher::Event::InitApply(pod("a", None)), watcher::Event::InitDone]
        {
            writer.apply_watcher_event(&event);
        }
        assert!(index.ready().await && index.ready_within(Duration::ZERO).await);
    }

    /// An index that lags behind its store would let two pipelines with one group run side by side.
    #[test]
    fn what_the_store_has_is_found_at_once() {
        let (store, mut writer) = reflector::store();
        let changes = Changes::default();
        let index = Index::new(store, changes.clone(), key);
        let mut apply = |event: watcher::Event<Pod>| {
            writer.apply_watcher_event(&event);
            changes.note();
        };
        let found = |of: &str| {
            let mut names: Vec<_> =
                index.get(&("shop".into(), of.into())).iter().map(|pod| pod.name_any()).collect();
            names.sort();
            names
        };
        assert_eq!(found("clicks"), [""; 0]);
        apply(watcher::Event::Apply(pod("a", Some("clicks"))));
        apply(watcher::Event::Apply(pod("b", Some("clicks"))));
        apply(watcher::Event::Apply(pod("c", Some("views"))));
        apply(watcher::Event::Apply(pod("d", None)));
        assert_eq!(found("clicks"), ["a", "b"]);
        assert_eq!(found("views"), ["c"]);
        assert_eq!(index.all().len(), 4);
        apply(watcher::Event::Apply(pod("b", Some("views"))));
        apply(watcher::Event::Delete(pod("c", Some("views"))));
        assert_eq!((found("clicks"), found("views")), (vec!["a".to_owned()], vec!["b".to_owned()]));
    }
}
