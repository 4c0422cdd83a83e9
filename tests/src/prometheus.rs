//! A Prometheus that scrapes what a test runs.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::port::Port;
use crate::process::{self, Process, tied};
use crate::run::Run;
use crate::{cache, http, wait};

/// Something to scrape, with the labels that service discovery would give it.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// Labels of all its series.
    pub labels: BTreeMap<String, String>,
}

impl Target {
    /// A target on this machine.
    #[must_use]
    pub fn new(port: u16, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { address: format!("127.0.0.1:{port}"), labels }
    }
}

/// Labels of a series, and its values with the seconds since 1970.
pub type Series = (Value, Vec<(f64, f64)>);

/// A running Prometheus; one of our own is killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    process: Process,
    _port: Port,
    _run: Run,
}

impl Prometheus {
    /// Starts a server that scrapes the targets every second and evaluates the rules files.
    ///
    /// # Errors
    /// When it does not start; the error holds the end of its log.
    pub async fn start(targets: &[Target], rules: &[PathBuf]) -> Result<Self> {
        let groups: Vec<Value> = targets
            .iter()
            .map(|target| json!({"targets": [target.address], "labels": target.labels}))
            .collect();
        // YAML is a superset of JSON.
        let configuration = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": [{"job_name": "test", "honor_labels": true, "static_configs": groups}],
        });
        Self::start_with(&configuration.to_string()).await
    }

    /// Starts a server with the given configuration.
    ///
    /// # Errors
    /// When it does not start; the error holds the end of its log.
    pub async fn start_with(configuration: &str) -> Result<Self> {
        let (port, run) = (Port::reserve()?, Run::new("prometheus")?);
        let file = run.path().join("prometheus.yaml");
        std::fs::write(&file, configuration)?;
        let mut command = tied("KILL", cache::program("prometheus")?);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", run.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{}", port.number())).arg("--log.level=warn");
        let process = Process::start("Prometheus", command, &run.path().join("log"))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number()));
        let mut server = Self { address, own: Some(Own { process, _port: port, _run: run }) };
        server.ready().await?;
        Ok(server)
    }

    /// One that somebody else runs, for example in a pod.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self { address, own: None }
    }

    async fn ready(&mut self) -> Result<()> {
        let address = self.address;
        let own = &mut self.own;
        wait::until_true("Prometheus is ready", Duration::from_secs(60), || {
            let running = own.as_mut().map_or(Ok(()), |own| own.process.check());
            async move {
                running?;
                Ok(http::get_from(address, "/-/ready").await?.0 == 200)
            }
        })
        .await
    }

    /// The values of an expression now: labels and value of each series.
    ///
    /// # Errors
    /// When the expression is wrong.
    pub async fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>> {
        let data = self.api(&format!("query?query={}", encoded(expression))).await?;
        let Some(series) = data["result"].as_array() else { return Ok(Vec::new()) };
        if data["resultType"] == "scalar" {
            return Ok(vec![(Value::Null, number(&series[1])?)]);
        }
        series.iter().map(|series| Ok((series["metric"].clone(), number(&series["value"][1])?))).collect()
    }

    /// The series of an expression over the last `seconds`, looked at every `step` seconds: labels, and the values (seconds
    /// since 1970, value) that are there.
    ///
    /// # Errors
    /// When the expression is wrong.
    pub async fn query_range(&self, expression: &str, seconds: i64, step: i64) -> Result<Vec<Series>> {
        let end = chrono::Utc::now().timestamp();
        let path = format!(
            "query_range?query={}&start={}&end={end}&step={step}",
            encoded(expression),
            end - seconds
        );
        let data = self.api(&path).await?;
        let series = data["result"].as_array().context("no series")?;
        series.iter().map(|series| Ok((series["metric"].clone(), points(&series["values"])?))).collect()
    }

    /// The values of a label among the series that `selector` chooses.
    ///
    /// # Errors
    /// When the selector is wrong.
    pub async fn label_values(&self, label: &str, selector: &str) -> Result<Vec<String>> {
        let data = self.api(&format!("label/{label}/values?match[]={}", encoded(selector))).await?;
        Ok(serde_json::from_value(data)?)
    }

    /// What `/api/v1/<path>` answers under `data`.
    ///
    /// # Errors
    /// When the answer is an error.
    pub async fn api(&self, path: &str) -> Result<Value> {
        let (_, body) = http::get_from(self.address, &format!("/api/v1/{path}")).await?;
        let answer: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(answer["status"] == "success", "{path}: {body}");
        Ok(answer["data"].clone())
    }
}

/// Runs `promtool`, and returns what it printed.
///
/// # Errors
/// When it finds fault with something; the error holds what it says.
pub async fn promtool(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(cache::program("promtool")?);
    command.args(arguments);
    process::output(command).await
}

/// Lets `promtool check metrics` judge what a program exports.
///
/// # Errors
/// When it finds fault; the error holds what it says and the metrics.
pub async fn check_metrics(metrics: &str) -> Result<()> {
    let mut command = tokio::process::Command::new(cache::program("promtool")?);
    command.args(["check", "metrics"]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // It reads all of its input before it says anything; the end of the input is the drop of the pipe.
    child.stdin.take().context("no input")?.write_all(metrics.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success() && said.trim().is_empty(), "promtool says:\n{said}\nabout:\n{metrics}");
    Ok(())
}

fn points(values: &Value) -> Result<Vec<(f64, f64)>> {
    let values = values.as_array().context("a series without values")?;
    values.iter().map(|point| Ok((point[0].as_f64().context("no time")?, number(&point[1])?))).collect()
}

fn number(value: &Value) -> Result<f64> {
    value.as_str().and_then(|text| text.parse().ok()).context("a value that is no number")
}

/// Percent-encodes a query parameter (RFC 3986, section 2.1).
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_survive_a_url() {
        assert_eq!(encoded("a{b=~\"ü.+\"}"), "a%7Bb%3D~%22%C3%BC.%2B%22%7D");
    }
}
