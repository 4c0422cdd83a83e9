//! Moves JSON events from a Kafka topic into PostgreSQL, each exactly once.
