//! The HTTP server for people, Kubernetes and Prometheus: `/health`, `/livez`, `/readyz`, `/metrics`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// How long open requests may take after the stop was asked for; a scraper that reads slowly must not delay the exit.
const DRAIN: Duration = Duration::from_secs(2);

/// The port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on port {port} for health and metrics: {source}; free the port or choose another with METRICS_PORT"
)]
pub struct BindError {
    /// The port asked for.
    pub port: u16,
    /// What the system said.
    pub source: io::Error,
}

#[derive(Clone)]
struct Shared {
    registry: Registry,
    own: OwnMetrics,
    health: Health,
}

/// What every binary exports beside its own metrics.
#[derive(Clone)]
pub(crate) struct OwnMetrics {
    registry: Registry,
    ready: IntGauge,
}

/// Opens `port` (0: any free one) on all addresses, IPv6 and IPv4.
///
/// # Errors
/// [`BindError`] when the port is taken or not allowed.
pub async fn bind(port: u16) -> Result<TcpListener, BindError> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(source)
            if matches!(source.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) =>
        {
            Err(BindError { port, source })
        }
        // A kernel without IPv6 refuses the address family, which has no error kind of its own.
        Err(_) => TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
            .await
            .map_err(|source| BindError { port, source }),
    }
}

/// Serves until `shutdown` is cancelled, then lets open requests finish for at most two seconds. Beside `registry` it
/// shows the standard `process_*` metrics (memory, CPU, open files) and `service_ready`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    health: Health,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_with(listener, registry, health, Router::new(), shutdown).await
}

/// The same, with further routes of the program's own.
///
/// # Errors
/// When the listener fails.
pub async fn serve_with(
    listener: TcpListener,
    registry: Registry,
    health: Health,
    routes: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let app = router(Shared { registry, own: OwnMetrics::new(), health }).merge(routes);
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        ended = server => ended,
        () = drained(&shutdown) => Ok(()),
    }
}

async fn drained(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(DRAIN).await;
}

impl OwnMetrics {
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        // The name and the help are constants, so making the gauge cannot fail; a gauge that it cannot show would not
        // be a reason to stop either.
        #[allow(clippy::expect_used)]
        let ready =
            IntGauge::new("service_ready", "1 while /readyz answers 200, else 0.").expect("a valid name");
        for collector in [Box::new(ready.clone()) as Box<_>, Box::new(ProcessCollector::for_self()) as Box<_>]
        {
            // The registry is new and empty, so only a broken /proc could refuse; other metrics do not depend on it.
            if let Err(error) = registry.register(collector) {
                tracing::warn!(%error, "Process metrics are not available");
            }
        }
        Self { registry, ready }
    }

    pub(crate) fn gather(&self, is_ready: bool) -> Vec<MetricFamily> {
        self.ready.set(is_ready.into());
        self.registry.gather()
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn health(State(shared): State<Shared>) -> Response {
    let (code, status) = match shared.health.is_alive() {
        true => (StatusCode::OK, "healthy"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unhealthy"),
    };
    // Written by hand, because readers of the older service compare the body byte for byte.
    let service = serde_json::Value::from(shared.health.service());
    let body = format!(r#"{{"status":"{status}","service":{service}}}"#);
    (code, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn livez(State(shared): State<Shared>) -> Response {
    verdict(shared.health.dead_reason())
}

async fn readyz(State(shared): State<Shared>) -> Response {
    verdict(shared.health.reason())
}

fn verdict(reason: Option<String>) -> Response {
    match reason {
        None => (StatusCode::OK, "ok\n").into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let mut families = shared.registry.gather();
    families.extend(shared.own.gather(shared.health.is_ready()));
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "Metrics could not be encoded");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics could not be encoded: {error}\n"))
                .into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    struct Running {
        port: u16,
        health: Health,
        registry: Registry,
        shutdown: CancellationToken,
        task: JoinHandle<io::Result<()>>,
    }

    struct Answer {
        status: u16,
        head: String,
        body: String,
    }

    async fn start() -> Running {
        let (registry, health, shutdown) =
            (Registry::new(), Health::new("analytics-service"), CancellationToken::new());
        let listener = bind(0).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(serve(listener, registry.clone(), health.clone(), shutdown.clone()));
        Running { port, health, registry, shutdown, task }
    }

    impl Running {
        async fn get(&self, path: &str) -> Answer {
            let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            socket.read_to_string(&mut text).await.unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Answer { status, head: head.to_lowercase(), body: body.to_owned() }
        }
    }

    #[tokio::test]
    async fn health_is_byte_for_byte_what_the_older_service_said() {
        let server = start().await;
        let answer = server.get("/health").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, r#"{"status":"healthy","service":"analytics-service"}"#);
        assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
    }

    #[tokio::test]
    async fn readyz_says_why_not() {
        let server = start().await;
        let answer = server.get("/readyz").await;
        assert_eq!((answer.status, answer.body.as_str()), (503, "starting\n"));
        server.health.set_ready();
        assert_eq!(server.get("/readyz").await.status, 200);
        server.health.set_not_ready("PostgreSQL is away");
        let answer = server.get("/readyz").await;
        assert_eq!((answer.status, answer.body.as_str()), (503, "PostgreSQL is away\n"));
    }

    #[tokio::test]
    async fn not_ready_is_still_alive_and_dead_is_neither() {
        let server = start().await;
        assert_eq!(server.get("/livez").await.status, 200);
        server.health.set_dead("the engine ended");
        let answer = server.get("/livez").await;
        assert_eq!((answer.status, answer.body.as_str()), (503, "the engine ended\n"));
        assert_eq!(server.get("/readyz").await.status, 503);
        let answer = server.get("/health").await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.body, r#"{"status":"unhealthy","service":"analytics-service"}"#);
    }

    #[tokio::test]
    async fn metrics_are_in_the_text_format_with_process_metrics_beside_them() {
        let server = start().await;
        crate::build_info(&server.registry, "x", "1");
        let answer = server.get("/metrics").await;
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
        assert!(answer.body.contains("# TYPE build_info gauge\n"), "{}", answer.body);
        assert!(answer.body.contains("\nprocess_resident_memory_bytes "), "{}", answer.body);
        assert!(answer.body.contains("\nservice_ready 0\n"), "{}", answer.body);
        server.health.set_ready();
        assert!(server.get("/metrics").await.body.contains("\nservice_ready 1\n"));
    }

    #[tokio::test]
    async fn an_unknown_path_is_not_found() {
        assert_eq!(start().await.get("/nothing").await.status, 404);
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_names_it() {
        let listener = bind(0).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = bind(port).await.unwrap_err();
        assert!(error.to_string().contains(&format!("port {port}")), "{error}");
    }

    #[tokio::test]
    async fn cancelling_ends_it_even_with_an_idle_connection_open() {
        let server = start().await;
        let _idle = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).await.unwrap();
        server.get("/livez").await;
        server.shutdown.cancel();
        tokio::time::timeout(DRAIN * 3, server.task).await.expect("ended").unwrap().unwrap();
    }
}
