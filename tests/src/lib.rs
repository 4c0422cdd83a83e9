//! A real Kubernetes, Kafka and PostgreSQL for the tests and the demo.
//!
//! Each handle ([`Kafka`], [`Postgres`], [`Cluster`]) starts its servers on ports and folders of its own and stops
//! them when dropped; [`Testbed`] starts all three side by side. The programs come from `tests/setup/setup.sh`.
//! A process that dies takes its servers with it, and the next one that starts removes what it left on disk.

pub mod authority;
pub mod cache;
pub mod cluster;
pub mod collector;
pub mod consumer;
pub mod dashboards;
pub mod generator;
pub mod helm;
pub mod http;
pub mod image;
pub mod kafka;
mod lock;
pub mod node;
pub mod place;
pub mod port;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod promql;
pub mod proxy;
pub mod run;
pub mod scenario;
pub mod together;
pub mod wait;

pub use authority::{Authority, Issued};
pub use cache::{consumer_binary, controller_binary, plugin_binary};
pub use cluster::{Cluster, ClusterOptions};
pub use collector::Collector;
pub use consumer::{Consumer, ConsumerOptions};
pub use image::Image;
pub use kafka::{Kafka, KafkaOptions};
pub use node::Node;
pub use place::Place;
pub use postgres::{Postgres, PostgresOptions};
pub use prometheus::Prometheus;
pub use proxy::Proxy;
pub use together::{Testbed, TestbedOptions};
