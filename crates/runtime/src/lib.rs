//! What both binaries share: telemetry, the health and metrics server, shutdown.
