//! An OpenTelemetry Collector that writes the spans it receives to a file.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::port::Port;
use crate::process::{Process, tied};
use crate::run::Run;
use crate::{cache, wait};

/// A running collector. Killed when dropped.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    address: Ipv4Addr,
    grpc: Port,
    http: Port,
    run: Run,
}

/// A span as the collector received it.
#[derive(Clone, Debug)]
pub struct Span {
    /// The span in OTLP's JSON form.
    pub json: Value,
    /// `service.name` of its resource.
    pub service: String,
}

impl Span {
    /// A text of the span itself, such as `name`, `spanId` or `parentSpanId`.
    #[must_use]
    pub fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }

    /// An attribute, whatever its type, as text.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<String> {
        let found = self.json["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == key)?;
        let value = found["value"].as_object()?.values().next()?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

impl Collector {
    /// Starts a collector for programs on this machine.
    ///
    /// # Errors
    /// When it does not start; the error holds the end of its log.
    pub async fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST).await
    }

    /// Starts a collector that listens on another of this machine's addresses, such as the one that pods reach.
    ///
    /// # Errors
    /// As [`Collector::start`].
    pub async fn start_at(address: Ipv4Addr) -> Result<Self> {
        let (grpc, http, run) = (Port::reserve()?, Port::reserve()?, Run::new("collector")?);
        let endpoint = |port: &Port| json!({"endpoint": format!("{address}:{}", port.number())});
        let configuration = json!({
            "receivers": {"otlp": {"protocols": {"grpc": endpoint(&grpc), "http": endpoint(&http)}}},
            "exporters": {"file": {"path": run.path().join("spans")}},
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
            },
        });
        let file = run.path().join("collector.yaml");
        std::fs::write(&file, configuration.to_string())?;
        let mut command = tied("KILL", cache::part("collector")?.join("collector"));
        command.arg("--config").arg(&file);
        let process = Process::start("the collector", command, &run.path().join("log"))?;
        let mut collector = Self { process, address, grpc, http, run };
        collector.ready().await?;
        Ok(collector)
    }

    async fn ready(&mut self) -> Result<()> {
        let endpoint = (self.address, self.grpc.number());
        let process = &mut self.process;
        wait::until_true("the collector listens", Duration::from_secs(60), || {
            let running = process.check();
            async move {
                running?;
                Ok(tokio::net::TcpStream::connect(endpoint).await.is_ok())
            }
        })
        .await
    }

    /// The endpoint for OTLP over gRPC.
    #[must_use]
    pub fn grpc_endpoint(&self) -> String {
        format!("http://{}:{}", self.address, self.grpc.number())
    }

    /// The endpoint for OTLP over HTTP.
    #[must_use]
    pub fn http_endpoint(&self) -> String {
        format!("http://{}:{}", self.address, self.http.number())
    }

    /// All spans received so far.
    ///
    /// # Errors
    /// When the file cannot be read as OTLP's JSON.
    pub fn spans(&self) -> Result<Vec<Span>> {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        let mut spans = Vec::new();
        // The last line may be half written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let request: Value = serde_json::from_str(line).context("a line that is no JSON")?;
            for resource in request["resourceSpans"].as_array().into_iter().flatten() {
                spans.extend(spans_of(resource));
            }
        }
        Ok(spans)
    }

    fn file(&self) -> PathBuf {
        self.run.path().join("spans")
    }
}

fn spans_of(resource: &Value) -> Vec<Span> {
    let attributes = resource["resource"]["attributes"].as_array();
    let name = attributes.into_iter().flatten().find(|attribute| attribute["key"] == "service.name");
    let service = name.and_then(|name| name["value"]["stringValue"].as_str()).unwrap_or_default();
    let scopes = resource["scopeSpans"].as_array().into_iter().flatten();
    let spans = scopes.flat_map(|scope| scope["spans"].as_array().into_iter().flatten());
    spans.map(|span| Span { json: span.clone(), service: service.to_owned() }).collect()
}
