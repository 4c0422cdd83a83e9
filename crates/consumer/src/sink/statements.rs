//! All SQL that names a configured table, rendered once at start from quoted identifiers.

use std::sync::Arc;

use super::rollups::RollupStatements;
use crate::settings;

/// Name of the table that holds each partition's next offset.
pub const OFFSETS_TABLE: &str = "pipeline_offsets";

/// The statements of one pipeline.
#[derive(Clone, Debug)]
pub struct Statements {
    /// Streams rows in, failing on a known key.
    pub copy: String,
    /// Inserts rows, passing over known keys; returns the keys that went in.
    pub insert: Arc<str>,
    /// Inserts dead letters, if they go to a table.
    pub insert_dead_letters: Option<Arc<str>>,
    /// Moves partitions forward by compare-and-set; returns those that moved.
    pub advance: Arc<str>,
    /// Takes a partition over and returns its stored offset; waits for a transaction that is moving it.
    pub claim: Arc<str>,
    /// Reads a partition's stored offset without waiting.
    pub read: Arc<str>,
    /// Ends the sessions that hold the rows of these partitions and wait for a client that says nothing.
    pub end_frozen: Arc<str>,
    /// Makes a partition's row, or leaves one that came in between; returns the stored offset.
    pub create: Arc<str>,
    /// Makes the rows of all partitions if the group and topic have none at all.
    pub create_all_once: Arc<str>,
    /// Puts a partition elsewhere, by compare-and-set.
    pub reset: Arc<str>,
    /// Adds to the rollups, if they are kept.
    pub rollups: Option<RollupStatements>,
}

impl Statements {
    /// Renders the statements.
    #[must_use]
    pub fn new(settings: &settings::Database) -> Self {
        let table = settings.table.quoted();
        let offsets = settings.table.sibling(OFFSETS_TABLE);
        let columns = "event_type, user_id, service, \"timestamp\", data, event_key";
        Self {
            copy: format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)"),
            insert: format!(
                "INSERT INTO {table} ({columns}) \
                 SELECT event_type, user_id, service, at, data::jsonb, key \
                 FROM unnest($1::text[], $2::uuid[], $3::text[], $4::timestamptz[], $5::text[], $6::uuid[]) \
                 AS event(event_type, user_id, service, at, data, key) \
                 ON CONFLICT (event_key) DO NOTHING RETURNING event_key"
            )
            .into(),
            insert_dead_letters: settings.dead_letters.table().map(|table| format!(
                "INSERT INTO {} (group_id, topic, partition, \"offset\", reason, detail, key, payload, headers, record_timestamp) \
                 SELECT $1, $2, partition, at, reason, detail, key, payload, headers::jsonb, to_timestamp(millis / 1000.0) \
                 FROM unnest($3::int[], $4::bigint[], $5::text[], $6::text[], $7::bytea[], $8::bytea[], $9::text[], $10::bigint[]) \
                 AS letter(partition, at, reason, detail, key, payload, headers, millis)",
                table.quoted()
            )
            .into()),
            advance: format!(
                "UPDATE {offsets} AS stored SET next_offset = moved.next_offset, log_end_offset = greatest(moved.log_end, moved.next_offset), \
                 owner = $3, updated_at = now() \
                 FROM unnest($4::int[], $5::bigint[], $6::bigint[], $7::bigint[]) AS moved(partition, from_offset, next_offset, log_end) \
                 WHERE stored.group_id = $1 AND stored.topic = $2 AND stored.partition = moved.partition \
                 AND stored.next_offset = moved.from_offset RETURNING stored.partition"
            )
            .into(),
            claim: format!(
                "UPDATE {offsets} SET owner = $4, updated_at = now(), topic_id = coalesce(topic_id, $5) \
                 WHERE group_id = $1 AND topic = $2 AND partition = $3 RETURNING next_offset, topic_id"
            )
            .into(),
            read: format!(
                "SELECT next_offset, topic_id FROM {offsets} WHERE group_id = $1 AND topic = $2 AND partition = $3"
            )
            .into(),
            // The row's xmax is the transaction that is changing it. Only a session that waits for its client is ended: one
            // that is at work comes to an end by itself. MATERIALIZED, because conditions have no order of their own.
            end_frozen: format!(
                "WITH frozen AS MATERIALIZED (SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
                 AND usename = current_user AND wait_event_type = 'Client' AND wait_event = 'ClientRead' \
                 AND clock_timestamp() - state_change > interval '500 milliseconds' AND backend_xid IN \
                 (SELECT xmax FROM {offsets} WHERE group_id = $1 AND topic = $2 AND partition = ANY($3))) \
                 SELECT pid FROM frozen WHERE pg_terminate_backend(pid)"
            )
            .into(),
            create: format!(
                "INSERT INTO {offsets} AS stored (group_id, topic, partition, next_offset, owner, topic_id) VALUES ($1, $2, $3, $5, $4, $6) \
                 ON CONFLICT (group_id, topic, partition) DO UPDATE SET owner = excluded.owner RETURNING stored.next_offset"
            )
            .into(),
            create_all_once: format!(
                "INSERT INTO {offsets} (group_id, topic, partition, next_offset, owner, topic_id) \
                 SELECT $1, $2, partition, next_offset, $3, $6 FROM unnest($4::int[], $5::bigint[]) AS fresh(partition, next_offset) \
                 WHERE NOT EXISTS (SELECT 1 FROM {offsets} WHERE group_id = $1 AND topic = $2)"
            )
            .into(),
            reset: format!(
                "UPDATE {offsets} SET next_offset = $6, owner = $4, updated_at = now(), topic_id = coalesce($7, topic_id) \
                 WHERE group_id = $1 AND topic = $2 AND partition = $3 AND next_offset = $5 RETURNING next_offset"
            )
            .into(),
            rollups: settings.rollups.then(|| RollupStatements::new(&settings.table, settings.rollup_users)),
        }
    }
}
