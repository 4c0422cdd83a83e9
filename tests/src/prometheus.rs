//! A Prometheus that scrapes what a test runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::port::Port;
use crate::process::{Process, tied};
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

/// A running Prometheus. Killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    port: Port,
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
        let mut server = Self { process, port, _run: run };
        server.ready().await?;
        Ok(server)
    }

    async fn ready(&mut self) -> Result<()> {
        let port = self.port.number();
        let process = &mut self.process;
        wait::until_true("Prometheus is ready", Duration::from_secs(60), || {
            let running = process.check();
            async move {
                running?;
                Ok(http::get(port, "/-/ready").await?.0 == 200)
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

    /// The series of an expression over the last `seconds`, with a value for each second: labels and number of values.
    ///
    /// # Errors
    /// When the expression is wrong.
    pub async fn query_range(&self, expression: &str, seconds: i64) -> Result<Vec<(Value, usize)>> {
        let end = chrono::Utc::now().timestamp();
        let path =
            format!("query_range?query={}&start={}&end={end}&step=1", encoded(expression), end - seconds);
        let data = self.api(&path).await?;
        let series = data["result"].as_array().context("no series")?;
        Ok(series
            .iter()
            .map(|series| (series["metric"].clone(), series["values"].as_array().map_or(0, Vec::len)))
            .collect())
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
        let (_, body) = http::get(self.port.number(), &format!("/api/v1/{path}")).await?;
        let answer: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
        ensure!(answer["status"] == "success", "{path}: {body}");
        Ok(answer["data"].clone())
    }
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
