//! The floor: psql's \copy of the rows that the consumer has stored, into the same table.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use testbed::process;

use crate::bed::{self, Bed, COLUMNS, Database};
use crate::table::Figures;
use crate::usage;

/// Rows in files, as psql exports them.
pub(crate) struct Export {
    folder: tempfile::TempDir,
    rows: u64,
}

/// What of the rows a file holds.
struct Selection {
    file: &'static str,
    columns: &'static str,
    condition: &'static str,
}

const KEYLESS: &str = "event_type, user_id, service, \"timestamp\", data";
/// The same rows a day later, keys (whose first 48 bits are milliseconds) included, for a table that has the rows themselves: what
/// comes next is later than what is there for the floor, too.
const RENEWED: &str = "event_type, user_id, service, \"timestamp\" + interval '1 day', data, \
    (lpad(to_hex(('x' || translate(left(event_key::text, 13), '-', ''))::bit(48)::bigint + 86400000), 12, '0') \
    || substr(event_key::text, 14))::uuid";
const WHOLE: Selection = Selection { file: "whole", columns: COLUMNS, condition: "true" };
const SELECTIONS: [Selection; 5] = [
    WHOLE,
    Selection { file: "renewed", columns: RENEWED, condition: "true" },
    Selection { file: "keyless", columns: KEYLESS, condition: "true" },
    Selection { file: "even", columns: COLUMNS, condition: "id % 2 = 0" },
    Selection { file: "odd", columns: COLUMNS, condition: "id % 2 = 1" },
];

impl Export {
    /// Exports the rows of a run in the order in which they were stored.
    pub(crate) async fn take(database: &Database) -> Result<Self> {
        Self::select(database, &SELECTIONS).await
    }

    /// The same for [`whole`] only.
    pub(crate) async fn take_whole(database: &Database) -> Result<Self> {
        Self::select(database, &[WHOLE]).await
    }

    async fn select(database: &Database, selections: &[Selection]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for Selection { file, columns, condition } in selections {
            let query = format!("SELECT {columns} FROM events WHERE {condition} ORDER BY id");
            psql(database, &format!("\\copy ({query}) TO '{}'", folder.path().join(file).display())).await?;
        }
        let mut session = bed::connect(&database.url).await?;
        let rows = bed::number(&mut session, "SELECT count(*) FROM events").await?.unsigned_abs();
        Ok(Self { folder, rows })
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }
}

/// One \copy of all rows.
pub(crate) async fn whole(bed: &mut Bed, export: &Export) -> Result<Figures> {
    let database = bed.migrated().await?;
    let copies = [copy(&export.path("whole"), COLUMNS)];
    measured(bed, database, "floor: psql \\copy, one session", &copies, export.rows).await
}

/// Two at once, each with every other row, as two connections of a consumer would.
pub(crate) async fn halves(bed: &mut Bed, export: &Export) -> Result<Figures> {
    let database = bed.migrated().await?;
    let copies = ["even", "odd"].map(|file| copy(&export.path(file), COLUMNS));
    measured(bed, database, "floor: two \\copy at once", &copies, export.rows).await
}

/// One \copy into the table as it is without the key and its unique index.
pub(crate) async fn keyless(bed: &mut Bed, export: &Export) -> Result<Figures> {
    let database = bed.migrated().await?;
    let mut session = bed::connect(&database.url).await?;
    sqlx::query("ALTER TABLE events DROP COLUMN event_key").execute(&mut session).await?;
    drop(session);
    let copies = [copy(&export.path("keyless"), KEYLESS)];
    measured(bed, database, "floor: \\copy without the key", &copies, export.rows).await
}

/// One \copy into a table that the consumer has filled further.
pub(crate) async fn grown(bed: &mut Bed, export: &Export, database: Database, name: &str) -> Result<Figures> {
    let copies = [copy(&export.path("renewed"), COLUMNS)];
    measured(bed, database, name, &copies, export.rows).await
}

async fn measured(
    bed: &mut Bed,
    database: Database,
    name: &str,
    copies: &[String],
    records: u64,
) -> Result<Figures> {
    let mut session = bed::connect(&database.url).await?;
    let before = bed::number(&mut session, "SELECT coalesce(max(id), 0) FROM events").await?;
    bed.settle().await?;
    let (clock, machine, log) = (Instant::now(), usage::of_machine()?, bed::log_end(&mut session).await?);
    futures::future::try_join_all(copies.iter().map(|copy| psql(&database, copy))).await?;
    let (seconds, machine_seconds) = (clock.elapsed().as_secs_f64(), usage::of_machine()? - machine);
    let wal_bytes = bed::log_end(&mut session).await? - log;
    let query = format!("SELECT count(*) FROM events WHERE id > {before}");
    let wrong = bed::check(&mut session, &[(&query, records)]).await?;
    drop(session);
    bed.drop(database).await?;
    Ok(Figures {
        name: name.to_owned(),
        records,
        seconds,
        machine_seconds,
        wal_bytes,
        wrong,
        ..Figures::default()
    })
}

fn copy(file: &Path, columns: &str) -> String {
    format!("\\copy events ({columns}) FROM '{}'", file.display())
}

async fn psql(database: &Database, command: &str) -> Result<()> {
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command", command]).arg(&database.url);
    process::output(psql).await.map(drop).context("psql's \\copy failed")
}
