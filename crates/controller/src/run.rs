//! Puts the parts together: health and metrics first, then the Lease, then the controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use analytics_runtime::health::Health;
use analytics_runtime::{server, shutdown};
use futures::StreamExt;
use futures::channel::mpsc;
use kube::Client;
use kube::runtime::events::Reporter;
use kube::runtime::{Controller, controller};
use prometheus::Registry;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::args::Settings;
use crate::context::{ByNamespace, Context, Memories, Pipeline};
use crate::decisions::{self, Decisions};
use crate::kafka::Clients;
use crate::lease::{self, Elector};
use crate::metrics::Metrics;
use crate::secrets::Secrets;
use crate::{arrivals, heap, pipeline, watches};

/// Free memory is given back with every so many sweeps.
const GIVE_BACK: u32 = 6;

/// Why the controller could not run, or had to stop.
#[derive(Debug, Error)]
pub enum RunError {
    /// The port is taken.
    #[error(transparent)]
    Bind(#[from] server::BindError),
    /// The signal handlers could not be installed, or the server failed.
    #[error("failed to serve: {0}")]
    Io(#[from] std::io::Error),
    /// A metric could not be registered.
    #[error("failed to register the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// There is no way to the API server.
    #[error(
        "failed to find the Kubernetes cluster: {0}; run inside a cluster with a service account, or set KUBECONFIG"
    )]
    Client(Box<kube::Error>),
    /// The HTTP client could not be made.
    #[error("failed to make the HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// Another controller leads now, or the Lease could not be renewed in time.
    #[error(transparent)]
    Lease(#[from] lease::Lost),
}

/// Runs the controller until it is told to stop. Needs the cryptography provider installed.
///
/// # Errors
/// When it cannot begin, or when it has lost the Lease.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?settings, "Starting");
    let stop = shutdown::on_termination_signal()?;
    let registry = Registry::new();
    analytics_runtime::build_info(&registry, "analytics-controller", env!("CARGO_PKG_VERSION"));
    let metrics = Metrics::register(&registry)?;
    let health = Health::new("analytics-controller");
    // First of all, so that a standby is seen to be alive and ready.
    let listener = server::bind(settings.metrics_port).await?;
    let server_stop = CancellationToken::new();
    let decisions = Decisions::default();
    let routes = decisions::routes(decisions.clone());
    let served = server::serve_with(listener, registry, health.clone(), routes, server_stop.clone());
    let server = tokio::spawn(served);
    let client = Client::try_default().await.map_err(|error| RunError::Client(Box::new(error)))?;
    let outcome = lead(client, settings, Shown { metrics, decisions }, health, &stop).await;
    server_stop.cancel();
    if let Ok(served) = server.await {
        served?;
    }
    outcome
}

/// What the server shows of the work.
#[derive(Clone)]
struct Shown {
    metrics: Metrics,
    decisions: Decisions,
}

async fn lead(
    client: Client,
    settings: Settings,
    shown: Shown,
    health: Health,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let namespaces = settings.watch_namespaces();
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = watches::wait_for_crd(&client, &namespaces, |reason| {
            tracing::warn!(reason, "Waiting");
            health.set_not_ready(reason);
        }) => {}
    }
    health.set_ready();
    let Some(namespace) = settings.lease_namespace.clone() else {
        tracing::warn!("No namespace for the Lease is known (POD_NAMESPACE): leading without election");
        shown.metrics.set_leader(true);
        work(client, settings, shown, stop.clone()).await?;
        return Ok(());
    };
    let (identity, metrics) = (identity(&settings), shown.metrics.clone());
    let mut elector = Elector::new(client.clone(), &namespace, &settings.lease_name, identity, metrics);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = elector.acquire() => {}
    }
    // Reconciles end before the Lease is given back, so that never two controllers write.
    let work_stop = stop.child_token();
    let worker = work(client, settings, shown, work_stop.clone());
    let outcome = tokio::select! {
        done = worker => done,
        lost = elector.keep() => Err(RunError::Lease(lost)),
    };
    if outcome.is_ok() {
        elector.release().await;
    }
    outcome
}

async fn work(
    client: Client,
    settings: Settings,
    shown: Shown,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let mut controllers = Vec::new();
    let (mut stores, mut pipelines) = (BTreeMap::new(), Vec::new());
    let (mut changes, mut wake) = (BTreeMap::new(), BTreeMap::new());
    for namespace in settings.watch_namespaces() {
        let (controller, of_controller, store) = watches::watch(&client, &namespace, settings.concurrency);
        let (sender, changed) = mpsc::unbounded();
        pipelines.push(of_controller);
        stores.insert(namespace.clone(), store);
        changes.insert(namespace.clone(), sender.clone());
        wake.insert(namespace, sender);
        controllers
            .push(controller.reconcile_on(changed).graceful_shutdown_on(stop.clone().cancelled_owned()));
    }
    let reporter =
        Reporter { controller: "analytics-controller".to_owned(), instance: Some(identity(&settings)) };
    let context = Arc::new(Context {
        client: client.clone(),
        kafka: Clients::new(settings.kafka_timeout()),
        pipelines,
        stores: ByNamespace::new(stores),
        secrets: Secrets::new(client.clone(), ByNamespace::new(changes)),
        // Pods are asked directly and without TLS: no proxy, no authorities.
        http: reqwest::Client::builder().no_proxy().tls_certs_only([]).pool_max_idle_per_host(1).build()?,
        reporter,
        metrics: shown.metrics,
        decisions: shown.decisions,
        monitoring: pipeline::Kinds::default(),
        settings,
        memories: Memories::default(),
    });
    let sweeper = tokio::spawn(sweep(Arc::clone(&context)));
    let waker = tokio::spawn(arrivals::watch(Arc::clone(&context), ByNamespace::new(wake)));
    futures::future::join_all(
        controllers.into_iter().map(|controller| drive(controller, Arc::clone(&context))),
    )
    .await;
    sweeper.abort();
    waker.abort();
    Ok(())
}

async fn drive(controller: Controller<Pipeline>, context: Arc<Context>) {
    controller
        .run(pipeline::reconcile, pipeline::error_policy, context)
        .for_each(|outcome| async {
            match outcome {
                // A pipeline was deleted between the trigger and the reconcile.
                Ok(_) | Err(controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "A watch or a reconcile failed; it is tried again"),
            }
        })
        .await;
}

async fn sweep(context: Arc<Context>) {
    let mut tick = tokio::time::interval(Duration::from_secs(10));
    for turn in 1_u32.. {
        tick.tick().await;
        context.sweep();
        if turn.is_multiple_of(GIVE_BACK) {
            heap::give_back();
        }
    }
}

fn identity(settings: &Settings) -> String {
    let host = || std::env::var("HOSTNAME").ok();
    settings.identity.clone().or_else(host).unwrap_or_else(|| format!("process-{}", std::process::id()))
}
