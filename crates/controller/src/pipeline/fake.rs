//! Servers for tests: one that answers as a function says, and an API server that takes everything but what it shall refuse.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{Method, Response, header};
use kube::Client;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::fixtures;

/// Serves until the handle is dropped. `answer` gets method, path and body; the body of a redirect is where it leads.
pub(crate) async fn serve(
    answer: impl Fn(&Method, &str, &str) -> (u16, String) + Send + Sync + 'static,
) -> (SocketAddr, AbortOnDropHandle<()>) {
    let answer = Arc::new(answer);
    let handler = move |request: Request| {
        let answer = Arc::clone(&answer);
        async move {
            let (head, body) = request.into_parts();
            let body = to_bytes(body, 1 << 20).await.unwrap();
            let (status, text) = answer(&head.method, head.uri.path(), &String::from_utf8_lossy(&body));
            let response =
                Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
            let response =
                if status / 100 == 3 { response.header(header::LOCATION, &text) } else { response };
            response.body(Body::from(text)).unwrap()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        axum::serve(listener, Router::new().fallback(handler)).await.unwrap();
    });
    (address, AbortOnDropHandle::new(served))
}

/// An API server that has the Secret `db` and the pipeline `clicks`, and remembers what was written.
pub(crate) struct ApiServer {
    pub(crate) client: Client,
    written: Arc<Mutex<Vec<(String, Value)>>>,
    refused: Arc<Mutex<Vec<&'static str>>>,
    _served: AbortOnDropHandle<()>,
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let (written, refused) =
            (Arc::<Mutex<Vec<_>>>::default(), Arc::<Mutex<Vec<&'static str>>>::default());
        let (log, refuse) = (Arc::clone(&written), Arc::clone(&refused));
        let (address, served) = serve(move |method, path, body| {
            let refused = refuse.lock().unwrap().iter().any(|part| path.ends_with(part));
            if method == Method::GET {
                return read(path);
            }
            if refused {
                return error(403);
            }
            let mut object: Value = serde_json::from_str(body).unwrap();
            log.lock().unwrap().push((path.to_owned(), object.clone()));
            if path.ends_with("/status") {
                return (200, serde_json::to_string(&fixtures::pipeline("{}")).unwrap());
            }
            object["metadata"]["generation"] = json!(7);
            object["metadata"]["resourceVersion"] = json!("7");
            (if method == Method::POST { 201 } else { 200 }, object.to_string())
        })
        .await;
        analytics_runtime::tls::install_crypto_provider();
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        Self { client: Client::try_from(config).unwrap(), written, refused, _served: served }
    }

    /// Writes to paths that end so are refused from now on.
    pub(crate) fn refuse(&self, parts: &[&'static str]) {
        *self.refused.lock().unwrap() = parts.to_vec();
    }

    /// What was written to paths that end so.
    pub(crate) fn written(&self, part: &str) -> Vec<Value> {
        let written = self.written.lock().unwrap();
        written.iter().filter(|(path, _)| path.ends_with(part)).map(|(_, body)| body.clone()).collect()
    }

    /// Reasons of the Events that were written.
    pub(crate) fn events(&self) -> Vec<String> {
        let reason = |event: &Value| event["reason"].as_str().unwrap_or_default().to_owned();
        self.written("/events").iter().map(reason).collect()
    }
}

fn read(path: &str) -> (u16, String) {
    if path.ends_with("/secrets/db") {
        let url = "cG9zdGdyZXM6Ly93cml0ZXI6c3dvcmRmaXNoQGRiOjU0MzIvc2hvcA=="; // postgres://writer:swordfish@db:5432/shop
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": {"url": url}});
        return (200, secret.to_string());
    }
    error(404)
}

fn error(code: u16) -> (u16, String) {
    let reason = if code == 404 { "NotFound" } else { "Forbidden" };
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "no",
    });
    (code, status.to_string())
}
