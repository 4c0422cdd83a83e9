//! What both binaries share: telemetry, the health and metrics server, shutdown.
//!
//! Nothing here knows about Kafka, PostgreSQL or Kubernetes.

pub mod catalogue;
pub mod certificate;
pub mod health;
pub mod server;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

use prometheus::{IntGauge, Opts, Registry};

/// Registers the gauge `build_info{name,version}`, which is always 1: joined with other series it says which
/// version produced them.
pub fn build_info(registry: &Registry, name: &str, version: &str) {
    let opts = Opts::new("build_info", "Name and version of the running binary; the value is always 1.")
        .const_label("name", name)
        .const_label("version", version);
    let registered = IntGauge::with_opts(opts).and_then(|gauge| {
        gauge.set(1);
        registry.register(Box::new(gauge))
    });
    // A binary that cannot tell its version still does its work, so this is no reason to stop.
    if let Err(error) = registered {
        tracing::warn!(%error, "The build_info metric could not be registered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_info_tells_name_and_version() {
        let registry = Registry::new();
        build_info(&registry, "analytics-consumer", "1.2.3");
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains(r#"build_info{name="analytics-consumer",version="1.2.3"} 1"#), "{text}");
    }

    #[test]
    fn registering_build_info_twice_keeps_the_first() {
        let registry = Registry::new();
        build_info(&registry, "one", "1");
        build_info(&registry, "one", "1");
        assert_eq!(registry.gather().len(), 1);
    }
}
