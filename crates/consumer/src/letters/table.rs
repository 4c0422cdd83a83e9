//! Reading and marking dead letters in their table.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Row as _};

use super::store::{Counts, Letter, PAGE, Replayed};
use super::{Filter, LetterId};
use crate::settings::{Settings, TableName};
use crate::sink::Database;

impl FromRow<'_, PgRow> for Letter {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: LetterId::Row(row.try_get("id")?),
            group_id: row.try_get("group_id")?,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            offset: row.try_get("offset")?,
            reason: row.try_get("reason")?,
            detail: row.try_get("detail")?,
            key: row.try_get("key")?,
            payload: row.try_get("payload")?,
            headers: row.try_get("headers")?,
            record_timestamp: row.try_get("record_timestamp")?,
            created_at: row.try_get("created_at")?,
            replayed: match row.try_get("replayed_at")? {
                None => Replayed::No,
                Some(at) => Replayed::Yes(Some(at)),
            },
            omitted_bytes: None,
        })
    }
}

/// The dead letters of one group and topic.
pub(super) struct TableStore {
    connection: PgConnection,
    table: String,
    place: String,
    group_id: String,
    topic: String,
}

/// The filter as SQL; `$1` to `$9` are bound in the order of [`bind`].
const CONDITIONS: &str = "group_id = $1 AND topic = $2 AND (cardinality($3::text[]) = 0 OR reason = ANY($3)) \
     AND ($4::int IS NULL OR partition = $4) AND ($5::bigint IS NULL OR \"offset\" >= $5) \
     AND ($6::bigint IS NULL OR \"offset\" < $6) AND ($7::timestamptz IS NULL OR created_at >= $7) \
     AND ($8::timestamptz IS NULL OR created_at < $8) AND (cardinality($9::bigint[]) = 0 OR id = ANY($9))";

macro_rules! bind {
    ($query:expr, $store:expr, $filter:expr) => {
        $query
            .bind(&$store.group_id)
            .bind(&$store.topic)
            .bind(&$filter.reasons)
            .bind($filter.partition)
            .bind($filter.from_offset)
            .bind($filter.to_offset)
            .bind($filter.since)
            .bind($filter.until)
            .bind($filter.ids.iter().map(|id| id.row()).collect::<Vec<_>>())
    };
}

impl TableStore {
    /// Connects.
    pub(super) async fn open(
        database: &Database,
        table: &TableName,
        settings: &Settings,
    ) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: database.connect().await?,
            table: table.quoted(),
            place: table.to_string(),
            group_id: settings.kafka.group_id.clone(),
            topic: settings.kafka.topic.clone(),
        })
    }

    /// The name of the table.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// The next letters after the id `after`, with or without those that were replayed; at most `most`.
    pub(super) async fn page(
        &mut self,
        filter: &Filter,
        replayed: bool,
        after: Option<LetterId>,
        most: i64,
    ) -> Result<Vec<Letter>, sqlx::Error> {
        let sql = format!(
            "SELECT * FROM {} WHERE {CONDITIONS} AND id > $10 AND ($11 OR replayed_at IS NULL) ORDER BY id LIMIT $12",
            self.table
        );
        let query = bind!(sqlx::query_as(AssertSqlSafe(sql)), self, filter);
        query
            .bind(after.and_then(LetterId::row).unwrap_or(0))
            .bind(replayed)
            .bind(most.min(PAGE))
            .fetch_all(&mut self.connection)
            .await
    }

    /// One letter.
    pub(super) async fn one(&mut self, id: LetterId) -> Result<Option<Letter>, sqlx::Error> {
        let sql = format!("SELECT * FROM {} WHERE id = $1", self.table);
        sqlx::query_as(AssertSqlSafe(sql)).bind(id.row()).fetch_optional(&mut self.connection).await
    }

    /// Letters by reason.
    pub(super) async fn count(&mut self, filter: &Filter) -> Result<Counts, sqlx::Error> {
        let sql = format!(
            "SELECT reason, count(*), count(replayed_at) FROM {} WHERE {CONDITIONS} GROUP BY reason",
            self.table
        );
        let query = bind!(sqlx::query_as(AssertSqlSafe(sql)), self, filter);
        let counts: Vec<(String, i64, i64)> = query.fetch_all(&mut self.connection).await?;
        Ok(counts.into_iter().map(|(reason, count, replayed)| (reason, (count, replayed))).collect())
    }

    /// How many letters a replay would send.
    pub(super) async fn waiting(&mut self, filter: &Filter, replayed: bool) -> Result<i64, sqlx::Error> {
        let sql = format!(
            "SELECT count(*) FROM {} WHERE {CONDITIONS} AND ($10 OR replayed_at IS NULL)",
            self.table
        );
        let query = bind!(sqlx::query_scalar(AssertSqlSafe(sql)), self, filter);
        query.bind(replayed).fetch_one(&mut self.connection).await
    }

    /// Marks letters as replayed.
    pub(super) async fn mark(&mut self, ids: &[LetterId]) -> Result<(), sqlx::Error> {
        let sql = format!("UPDATE {} SET replayed_at = now() WHERE id = ANY($1)", self.table);
        let ids: Vec<i64> = ids.iter().filter_map(|id| id.row()).collect();
        sqlx::query(AssertSqlSafe(sql)).bind(ids).execute(&mut self.connection).await?;
        Ok(())
    }
}
