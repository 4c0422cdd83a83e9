//! Pipelines and Secrets for tests.

use std::sync::Arc;

use analytics_api::AnalyticsPipeline;
use clap::Parser;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::runtime::events::Reporter;
use kube::runtime::reflector::{self, Lookup, Store, store::Writer};
use kube::runtime::watcher::Event;
use kube::{Client, Resource};
use serde_json::{Value, json};

use super::dereference::References;
use super::validate::{self, ValidatedPipeline};
use crate::context::{ByNamespace, Context, Memories};
use crate::index::{Changes, Index};
use crate::shelf::{Consumers, Migrated, Seen, Shelf};
use crate::watches::Stores;

/// A pipeline named `clicks` in `shop`, read from JSON as the API server would give it; `spec` is merged over a minimal one.
pub(crate) fn pipeline(spec: &str) -> AnalyticsPipeline {
    let mut object = json!({
        "apiVersion": "analyticspipeline.dev/v1alpha1",
        "kind": "AnalyticsPipeline",
        "metadata": {"name": "clicks", "namespace": "shop", "uid": "uid-clicks", "generation": 1},
        "spec": {
            "source": {"bootstrapServers": "kafka:9092", "topic": "user-events"},
            "sink": {"urlSecretRef": {"name": "db"}}
        }
    });
    merge(&mut object["spec"], serde_json::from_str(spec).unwrap());
    serde_json::from_value(object).unwrap()
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

/// Secrets with the given content.
pub(crate) fn secrets(secrets: &[(&str, &[(&str, &str)])]) -> References {
    let secrets = secrets
        .iter()
        .map(|(name, content)| {
            let content = content
                .iter()
                .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
                .collect();
            ((*name).to_owned(), Some(Arc::new(content)))
        })
        .collect();
    References { secrets }
}

/// Every Secret that the pipelines of these tests name.
pub(crate) fn references(_: &AnalyticsPipeline) -> References {
    let pem = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n";
    secrets(&[
        ("db", &[("url", "postgres://writer:swordfish@db:5432/shop?sslmode=verify-full")]),
        ("login", &[("username", "reader"), ("password", "swordfish")]),
        ("ca", &[("ca.crt", pem)]),
        ("client", &[("tls.crt", pem), ("tls.key", pem)]),
    ])
}

/// A pipeline that has passed validation.
pub(crate) fn valid(spec: &str) -> ValidatedPipeline {
    let pipeline = pipeline(spec);
    validate::run(
        &pipeline,
        &(&pipeline).into(),
        &references(&pipeline),
        &[],
        Some("analytics-pipeline:1.2.3"),
    )
    .unwrap()
}

/// A moment, in seconds since the epoch.
pub(crate) fn time(second: i64) -> Time {
    Time(jiff::Timestamp::from_second(second).unwrap())
}

/// Ends of watches: what they have listed counts from the moment at which they are used.
pub(crate) struct Watches(Vec<Box<dyn FnOnce() + Send>>);

impl Watches {
    /// Every watch has listed what there is.
    pub(crate) fn list(self) {
        self.0.into_iter().for_each(|list| list());
    }

    fn store<K>(&mut self, objects: Vec<K>) -> Store<K>
    where
        K: Lookup<DynamicType = ()> + Clone + Send + Sync + 'static,
    {
        let (store, mut writer): (Store<K>, Writer<K>) = reflector::store();
        self.0.push(Box::new(move || {
            let objects = objects.into_iter().map(Event::InitApply);
            for event in std::iter::once(Event::Init).chain(objects).chain([Event::InitDone]) {
                writer.apply_watcher_event(&event);
            }
        }));
        store
    }

    fn shelf<K, V>(&mut self, objects: Vec<K>, keep: fn(&K) -> V) -> Shelf<V>
    where
        K: Resource + Send + 'static,
        V: Clone + Send + 'static,
    {
        let shelf = Shelf::default();
        let fill = shelf.clone();
        self.0.push(Box::new(move || {
            let objects = objects.into_iter().map(Event::InitApply);
            for event in std::iter::once(Event::Init).chain(objects).chain([Event::InitDone]) {
                fill.take(&event, keep);
            }
        }));
        shelf
    }

    fn nothing(&mut self) -> Shelf<Seen> {
        self.shelf(Vec::new(), Seen::of::<Job>)
    }
}

/// A context for all namespaces, with these objects once the watches have listed them.
pub(crate) fn context(
    client: &Client,
    deployments: Vec<Deployment>,
    jobs: Vec<Job>,
) -> (Arc<Context>, Watches) {
    let mut watches = Watches(Vec::new());
    let index = |store| Index::new(store, Changes::default(), |_| None);
    let stores = Stores {
        pods: Index::new(watches.store(Vec::new()), Changes::default(), |_| None),
        deployments: watches.shelf(deployments, Consumers::of),
        jobs: watches.shelf(jobs, Migrated::of),
        config_maps: watches.nothing(),
        services: watches.nothing(),
        service_accounts: watches.nothing(),
        budgets: watches.nothing(),
        network_policies: watches.nothing(),
    };
    let cli = crate::args::Cli::try_parse_from(["analytics-controller", "--consumer-image", "image:1"]);
    let everywhere = |part| ByNamespace::new(std::iter::once((String::new(), part)).collect());
    let context = Context {
        client: client.clone(),
        settings: cli.unwrap().settings,
        pipelines: vec![index(watches.store(Vec::new()))],
        stores: everywhere(stores),
        secrets: crate::secrets::Secrets::new(client.clone(), ByNamespace::new(Default::default())),
        kafka: crate::kafka::Clients::new(std::time::Duration::from_millis(300)),
        http: super::http_client().unwrap(),
        reporter: Reporter { controller: "test".into(), instance: None },
        metrics: crate::metrics::Metrics::register(&prometheus::Registry::new()).unwrap(),
        monitoring: super::Kinds::default(),
        memories: Memories::default(),
        decisions: crate::decisions::Decisions::default(),
    };
    (Arc::new(context), watches)
}
