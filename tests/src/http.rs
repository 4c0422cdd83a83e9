//! Just enough HTTP to read health pages and metrics on this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Status and body of `http://127.0.0.1:port/path`.
///
/// # Errors
/// When nobody answers in time or the answer is no HTTP.
pub async fn get(port: u16, path: &str) -> Result<(u16, String)> {
    get_from(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path).await
}

/// Status and body of `http://address/path`, such as a pod's.
///
/// # Errors
/// When nobody answers in time or the answer is no HTTP.
pub async fn get_from(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let answer = tokio::time::timeout(TIMEOUT, async {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: the answer ends with the connection and is never chunked.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    });
    let answer = answer.await.context("no answer in time")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}

/// The sum of the series whose text begins with `prefix`, from metrics in Prometheus' text format.
#[must_use]
pub fn sum_of_series(metrics: &str, prefix: &str) -> f64 {
    let series = metrics.lines().filter(|line| {
        line.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with([' ', '{', ',', '}']) || prefix.contains('{'))
    });
    series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_first_labels() {
        let metrics = "# HELP a A\na{x=\"1\"} 2\na{x=\"2\"} 3\na_total 7\nab 9\n";
        assert!((sum_of_series(metrics, "a") - 5.0).abs() < f64::EPSILON);
        assert!((sum_of_series(metrics, "a_total") - 7.0).abs() < f64::EPSILON);
        assert!((sum_of_series(metrics, "a{x=\"2\"") - 3.0).abs() < f64::EPSILON);
    }
}
