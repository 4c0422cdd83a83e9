//! The consumer alone, against a real Kafka and a real PostgreSQL: what it promises about every event.

mod bad_input;
mod dead_letter_topic;
mod dead_letters;
mod delivery;
mod faults;
mod group_protocol;
mod migrations;
mod offsets;
mod partitions;
mod refusals;
mod rollups;
mod staying_up;
mod support;
mod transactions;
mod zombies;
