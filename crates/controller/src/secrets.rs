//! Referenced Secrets: read by name, watched by name, and only while a pipeline refers to them.
//!
//! Each Secret is read once and kept until its watch (of metadata only) says that it changed; then every pipeline that refers
//! to it is reconciled. No list of Secrets is ever asked for, so the operator needs the verbs `get` and `watch` only.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use analytics_api::AnalyticsPipeline;
use futures::channel::mpsc;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::context::{ByNamespace, Pipeline};
use crate::error::Error;

/// Content of a Secret.
pub(crate) type Content = Arc<BTreeMap<String, ByteString>>;

/// Where to send pipelines whose Secret changed.
pub(crate) type Changes = mpsc::UnboundedSender<ObjectRef<Pipeline>>;

/// How long one watch lasts before it is asked for anew; the API server allows just under five minutes.
const WATCH_SECONDS: u32 = 280;
/// One that lasts longer is dead: its connection has gone without a word.
const LONGEST_WATCH: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 20);
/// How often a Secret that changes while it is read is read again.
const ATTEMPTS: usize = 3;
/// Pause after a watch that failed, longer after each further one.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    namespace: String,
    name: String,
}

#[derive(Clone)]
enum Known {
    /// It has to be read.
    Nothing,
    /// It was read and is not there.
    Absent,
    /// It was read.
    Present { version: Option<String>, content: Content },
}

struct Entry {
    known: Known,
    /// How often there was news: what was read before the last of it may be out of date.
    news: u64,
    users: HashSet<ObjectRef<Pipeline>>,
    watch: AbortHandle,
}

impl Known {
    fn content(&self) -> Option<Content> {
        match self {
            Self::Present { content, .. } => Some(Arc::clone(content)),
            Self::Nothing | Self::Absent => None,
        }
    }
}

impl Entry {
    /// Takes what was read, unless there has been news since there were so many. False if it has to be read again.
    fn learn(&mut self, known: Known, news: u64) -> bool {
        let fresh = self.news == news;
        if fresh {
            self.known = known;
        }
        fresh
    }

    /// The watch has seen this version, or that it is not there. True if those who use it have to be told.
    fn change(&mut self, version: Option<&str>) -> bool {
        let news = match (&self.known, version) {
            // Whoever reads it at this moment reads it again.
            (Known::Nothing, _) => {
                self.news += 1;
                false
            }
            (Known::Absent, version) => version.is_some(),
            (Known::Present { version: known, .. }, version) => known.as_deref() != version,
        };
        if news {
            self.forget();
        }
        news
    }

    fn forget(&mut self) {
        self.known = Known::Nothing;
        self.news += 1;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// The Secrets that pipelines refer to.
#[derive(Clone)]
pub(crate) struct Secrets {
    client: Client,
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
    changes: Arc<ByNamespace<Changes>>,
}

impl Secrets {
    /// No Secret yet; pipelines to reconcile because a Secret changed are sent to `changes`.
    pub(crate) fn new(client: Client, changes: ByNamespace<Changes>) -> Self {
        Self { client, entries: Arc::default(), changes: Arc::new(changes) }
    }

    /// Content of a Secret, `None` if there is no such Secret. From now on its changes reconcile `user`.
    pub(crate) async fn get(
        &self,
        namespace: &str,
        name: &str,
        user: &ObjectRef<Pipeline>,
    ) -> Result<Option<Content>, Error> {
        let key = Key { namespace: namespace.to_owned(), name: name.to_owned() };
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let mut content = None;
        for _ in 0..ATTEMPTS {
            let news = match self.subscribe(&key, user) {
                (Known::Absent, _) => return Ok(None),
                (Known::Present { content, .. }, _) => return Ok(Some(content)),
                (Known::Nothing, news) => news,
            };
            let secret = api
                .get_opt(name)
                .await
                .map_err(|source| Error::ReadSecret { name: name.to_owned(), source: Box::new(source) })?;
            let known = secret.map_or(Known::Absent, |secret| Known::Present {
                version: secret.resource_version(),
                content: Arc::new(secret.data.unwrap_or_default()),
            });
            content = known.content();
            if self.lock().get_mut(&key).is_none_or(|entry| entry.learn(known, news)) {
                break;
            }
        }
        // One that changes all the time is read each time.
        Ok(content)
    }

    /// Stops watching what `user` no longer refers to.
    pub(crate) fn keep_only(&self, user: &ObjectRef<Pipeline>, names: &BTreeSet<String>) {
        self.lock().retain(|key, entry| {
            if !names.contains(&key.name) || user.namespace.as_ref() != Some(&key.namespace) {
                entry.users.remove(user);
            }
            !entry.users.is_empty()
        });
    }

    fn subscribe(&self, key: &Key, user: &ObjectRef<Pipeline>) -> (Known, u64) {
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
            known: Known::Nothing,
            news: 0,
            users: HashSet::new(),
            watch: tokio::spawn(watch(self.clone(), key.clone())).abort_handle(),
        });
        entry.users.insert(user.clone());
        (entry.known.clone(), entry.news)
    }

    fn changed(&self, key: &Key, version: Option<&str>) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else { return };
        if entry.change(version) {
            for user in &entry.users {
                // A closed channel means that the controller is stopping.
                let _ = self.changes.get(&key.namespace).map(|changes| changes.unbounded_send(user.clone()));
            }
        }
    }

    // Without a watch nothing may be believed: the next reconcile reads again.
    fn forget(&self, key: &Key) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.forget();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn watch(secrets: Secrets, key: Key) {
    let mut failures: u32 = 0;
    loop {
        // Begun again, it forgets what was read before.
        match timeout(LONGEST_WATCH, watch_once(&secrets, &key)).await {
            Ok(Ok(())) | Err(_) => failures = 0,
            Ok(Err(error)) => {
                // Meanwhile every reconcile reads the Secret anew, so nothing is missed.
                let (namespace, secret) = (key.namespace.as_str(), key.name.as_str());
                if failures == 0 {
                    tracing::warn!(namespace, secret, %error, "Watching a Secret failed; it is read each time until that works again");
                }
                secrets.forget(&key);
                failures = failures.saturating_add(1);
                tokio::time::sleep(RETRY.saturating_mul(failures.min(12))).await;
            }
        }
    }
}

async fn watch_once(secrets: &Secrets, key: &Key) -> Result<(), kube::Error> {
    let version = current_version(secrets, key).await?;
    // What was read before this moment may be out of date already, and no event will say so.
    secrets.forget(key);
    let api = Api::<Secret>::namespaced(secrets.client.clone(), &key.namespace);
    let parameters =
        WatchParams::default().fields(&format!("metadata.name={}", key.name)).timeout(WATCH_SECONDS);
    let mut events = api.watch_metadata(&parameters, &version).await?.boxed();
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                secrets.changed(key, object.metadata.resource_version.as_deref());
            }
            WatchEvent::Deleted(_) => secrets.changed(key, None),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        }
    }
    Ok(())
}

// A watch needs a version to begin with. A list of Secrets would give one, and the right to all of them with it; a list of at
// most one pipeline gives one, too: versions count the revisions of the one store behind all resources.
async fn current_version(secrets: &Secrets, key: &Key) -> Result<String, kube::Error> {
    let api = Api::<AnalyticsPipeline>::namespaced(secrets.client.clone(), &key.namespace);
    let list = api.list_metadata(&ListParams::default().limit(1)).await?;
    Ok(list.metadata.resource_version.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(version: &str) -> Known {
        Known::Present { version: Some(version.to_owned()), content: Content::default() }
    }

    /// A password that is changed while it is read would be used until the next change.
    #[tokio::test]
    async fn what_was_read_before_a_change_is_not_kept() {
        // What was known, what the watch saw, whether the users are told, and whether a reading begun before is kept.
        let table = [
            (Known::Nothing, Some("2"), false, false, "changed while it was read"),
            (Known::Nothing, None, false, false, "deleted while it was read"),
            (present("1"), Some("2"), true, false, "changed"),
            (present("2"), Some("2"), false, true, "seen once more"),
            (present("1"), None, true, false, "deleted"),
            (Known::Absent, Some("1"), true, false, "made"),
            (Known::Absent, None, false, true, "still not there"),
        ];
        for (known, version, told, kept, what) in table {
            let watch = tokio::spawn(async {}).abort_handle();
            let mut entry = Entry { known, news: 7, users: HashSet::new(), watch };
            assert_eq!(entry.change(version), told, "{what}");
            assert_eq!(entry.learn(present("1"), 7), kept, "{what}");
            if told {
                assert!(matches!(entry.known, Known::Nothing), "{what}");
            }
        }
    }
}
