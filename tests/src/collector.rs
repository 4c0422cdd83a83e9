//! An OpenTelemetry Collector that writes the spans it receives to a file.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
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
    scheme: &'static str,
}

/// Whom a collector lets in, where it does not take spans from everybody.
#[derive(Clone, Copy, Debug)]
pub struct Guard<'a> {
    /// Its certificate and key, in PEM.
    pub certificate: (&'a Path, &'a Path),
    /// The authority that must have signed the certificates of clients.
    pub clients: &'a Path,
    /// Name and value of the header that each request must have.
    pub header: (&'a str, &'a str),
}

impl Guard<'_> {
    /// The same for both protocols. Over HTTP it takes nothing that is not compressed.
    fn protocol(&self, protocol: &str, mut endpoint: Value) -> Value {
        let (certificate, key) = self.certificate;
        endpoint["tls"] = json!({"cert_file": certificate, "key_file": key, "client_ca_file": self.clients});
        endpoint["auth"] = json!({"authenticator": "required_header"});
        if protocol == "http" {
            endpoint["compression_algorithms"] = json!(["gzip"]);
        }
        endpoint
    }
}

/// A span as the collector received it.
#[derive(Clone, Debug)]
pub struct Span {
    /// The span in OTLP's JSON form.
    pub json: Value,
    /// `service.name` of its resource.
    pub service: String,
    /// The resource in OTLP's JSON form.
    pub resource: Value,
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
        attribute(&self.json, key)
    }

    /// The same of its resource.
    #[must_use]
    pub fn resource_attribute(&self, key: &str) -> Option<String> {
        attribute(&self.resource, key)
    }
}

fn attribute(of: &Value, key: &str) -> Option<String> {
    let found = of["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == key)?;
    let value = found["value"].as_object()?.values().next()?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

impl Collector {
    /// Starts a collector for programs on this machine.
    ///
    /// # Errors
    /// When it does not start; the error holds the end of its log.
    pub async fn start() -> Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST).await
    }

    /// Starts a collector for programs on this machine that lets in only some.
    ///
    /// # Errors
    /// As [`Collector::start`].
    pub async fn start_guarded(guard: Guard<'_>) -> Result<Self> {
        Self::start_with(Ipv4Addr::LOCALHOST, Some(guard)).await
    }

    /// Starts a collector that listens on another of this machine's addresses, such as the one that pods reach.
    ///
    /// # Errors
    /// As [`Collector::start`].
    pub async fn start_at(address: Ipv4Addr) -> Result<Self> {
        Self::start_with(address, None).await
    }

    async fn start_with(address: Ipv4Addr, guard: Option<Guard<'_>>) -> Result<Self> {
        let (grpc, http, run) = (Port::reserve()?, Port::reserve()?, Run::new("collector")?);
        let protocol = |name: &str, port: &Port| {
            let endpoint = json!({"endpoint": format!("{address}:{}", port.number())});
            guard.map_or(endpoint.clone(), |guard| guard.protocol(name, endpoint))
        };
        let header = guard.map(|guard| json!({"name": guard.header.0, "value": guard.header.1}));
        let configuration = json!({
            "receivers": {"otlp": {"protocols": {"grpc": protocol("grpc", &grpc), "http": protocol("http", &http)}}},
            "exporters": {"file": {"path": run.path().join("spans")}},
            "extensions": header.as_ref().map(|header| json!({"required_header": header})),
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "extensions": header.map(|_| ["required_header"]),
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
            },
        });
        let file = run.path().join("collector.yaml");
        std::fs::write(&file, configuration.to_string())?;
        let mut command = tied("KILL", cache::part("collector")?.join("collector"));
        command.arg("--config").arg(&file);
        let process = Process::start("the collector", command, &run.path().join("log"))?;
        let scheme = if guard.is_some() { "https" } else { "http" };
        let mut collector = Self { process, address, grpc, http, run, scheme };
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
        format!("{}://{}:{}", self.scheme, self.address, self.grpc.number())
    }

    /// The endpoint for OTLP over HTTP.
    #[must_use]
    pub fn http_endpoint(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.address, self.http.number())
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
    let resource = &resource["resource"];
    spans
        .map(|span| Span { json: span.clone(), service: service.to_owned(), resource: resource.clone() })
        .collect()
}
