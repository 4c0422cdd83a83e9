//! Puts the parts together: health and metrics first, then the Lease, then the controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use analytics_runtime::health::Health;
use analytics_runtime::{server, shutdown};
use futures::StreamExt;
use futures::channel::mpsc;
use kube::runtime::events::Reporter;
use kube::runtime::{Controller, controller};
use kube::{Client, Config};
use prometheus::Registry;
use thiserror::Error;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::args::Settings;
use crate::context::{ByNamespace, Context, Memories, Pipeline};
use crate::decisions::{self, Decisions};
use crate::kafka::Clients;
use crate::lease::{self, Elector};
use crate::metrics::Metrics;
use crate::recollections::Recollections;
use crate::secrets::Secrets;
use crate::{arrivals, heap, pipeline, watches};

/// An answer of the API server that does not go on for so long does not come.
const REQUEST_SILENCE: Duration = Duration::from_secs(30);
/// The same of a watch: longer than the API server lets one last.
const WATCH_SILENCE: Duration = Duration::from_secs(330);
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
    /// A part that has to run as long as the controller does has ended.
    #[error("the {part} has ended: {reason}; without it the controller would only seem to work")]
    Ended {
        /// Which.
        part: &'static str,
        /// Why, as far as it is known.
        reason: String,
    },
}

impl RunError {
    fn ended<T>(part: &'static str, outcome: &Result<T, JoinError>) -> Self {
        let reason = outcome.as_ref().err().map_or_else(|| "it returned".to_owned(), JoinError::to_string);
        Self::Ended { part, reason }
    }
}

/// Connections to the API server.
#[derive(Clone)]
struct Connections {
    /// For what is answered at once.
    requests: Client,
    /// For watches, which may be silent for minutes.
    watches: Client,
}

impl Connections {
    /// A connection that was dropped on the way without a word must not hold a reconcile, or a watch, for ever: an answer that
    /// does not go on for so long is an error.
    fn new(config: &Config, requests: Duration, watches: Duration) -> Result<Self, kube::Error> {
        let client = |limit| {
            let mut limited = config.clone();
            limited.read_timeout = Some(limit);
            limited.reset_reader_on_write = true;
            Client::try_from(limited)
        };
        Ok(Self { requests: client(requests)?, watches: client(watches)? })
    }
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
    let mut server = tokio::spawn(served);
    let config =
        Config::infer().await.map_err(|error| RunError::Client(Box::new(kube::Error::InferConfig(error))))?;
    let connections = Connections::new(&config, REQUEST_SILENCE, WATCH_SILENCE);
    let connections = connections.map_err(|error| RunError::Client(Box::new(error)))?;
    let outcome = tokio::select! {
        outcome = lead(connections, settings, Shown { metrics, decisions }, health, &stop) => outcome,
        served = &mut server => return Err(match served {
            Ok(Err(error)) => RunError::Io(error),
            outcome => RunError::ended("server of health and metrics", &outcome),
        }),
    };
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
    connections: Connections,
    settings: Settings,
    shown: Shown,
    health: Health,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let namespaces = settings.watch_namespaces();
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = watches::wait_for_crd(&connections.requests, &namespaces, |reason| {
            tracing::warn!(reason, "Waiting");
            health.set_not_ready(reason);
        }) => {}
    }
    health.set_ready();
    let Some(namespace) = settings.lease_namespace.clone() else {
        tracing::warn!("No namespace for the Lease is known (POD_NAMESPACE): leading without election");
        shown.metrics.set_leader(true);
        return work(connections, settings, shown, stop.clone()).await;
    };
    let (identity, metrics) = (identity(&settings), shown.metrics.clone());
    let mut elector =
        Elector::new(connections.requests.clone(), &namespace, &settings.lease_name, identity, metrics);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = elector.acquire() => {}
    }
    // Reconciles end before the Lease is given back, so that never two controllers write.
    let work_stop = stop.child_token();
    let worker = work(connections, settings, shown, work_stop.clone());
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
    connections: Connections,
    settings: Settings,
    shown: Shown,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let mut controllers = Vec::new();
    let (mut stores, mut pipelines) = (BTreeMap::new(), Vec::new());
    let (mut changes, mut wake) = (BTreeMap::new(), BTreeMap::new());
    let recollections = Recollections::default();
    for namespace in settings.watch_namespaces() {
        let (controller, of_controller, store) =
            watches::watch(&connections.watches, &namespace, settings.concurrency, &recollections);
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
        client: connections.requests,
        kafka: Clients::new(settings.kafka_timeout()),
        pipelines,
        stores: ByNamespace::new(stores),
        secrets: Secrets::new(connections.watches, ByNamespace::new(changes)),
        http: pipeline::http_client()?,
        reporter,
        metrics: shown.metrics,
        decisions: shown.decisions,
        monitoring: pipeline::Kinds::default(),
        settings,
        memories: Memories::new(recollections),
    });
    let mut sweeper = tokio::spawn(sweep(Arc::clone(&context)));
    let mut waker = tokio::spawn(arrivals::watch(Arc::clone(&context), ByNamespace::new(wake)));
    let controllers = controllers.into_iter().map(|controller| drive(controller, Arc::clone(&context)));
    let outcome = tokio::select! {
        _ = futures::future::join_all(controllers) => Ok(()),
        outcome = &mut sweeper => Err(RunError::ended("sweeper", &outcome)),
        outcome = &mut waker => Err(RunError::ended("waker of pipelines that rest", &outcome)),
    };
    sweeper.abort();
    waker.abort();
    outcome
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::api::Api;

    use super::*;

    /// A network that swallows what is sent, as when a node goes away: its connections stay open and silent.
    #[tokio::test]
    async fn a_request_that_nobody_answers_ends() {
        analytics_runtime::tls::install_crypto_provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let silent = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                open.push(connection);
            }
        });
        let short = Duration::from_millis(100);
        let connections = Connections::new(&config, short, short).unwrap();
        for client in [connections.requests, connections.watches] {
            let secrets = Api::<Secret>::namespaced(client, "shop");
            let outcome = tokio::time::timeout(Duration::from_secs(20), secrets.get("db")).await;
            assert!(outcome.is_ok_and(|answer| answer.is_err()), "it waits for ever, or has an answer");
        }
        silent.abort();
    }

    #[tokio::test]
    async fn a_part_that_ends_says_why() {
        let outcome = tokio::spawn(async { panic!("a mistake") }).await;
        let told = RunError::ended::<()>("waker", &outcome).to_string();
        assert!(told.contains("the waker has ended") && told.contains("a mistake"), "{told}");
    }
}
