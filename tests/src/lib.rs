//! A real Kubernetes, Kafka and PostgreSQL for the tests.
