//! Rows that PostgreSQL refuses: what is the record's fault becomes a dead letter, cheaply; what is not never does.

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use rdkafka::producer::FutureRecord;
use sqlx::{AssertSqlSafe, PgPool};
use testbed::{Consumer, ConsumerOptions, Kafka, KafkaOptions, Postgres, PostgresOptions, wait};

use crate::support::{Bed, SOON, event};

async fn execute(pool: &PgPool, statements: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(pool).await?;
    Ok(())
}

/// A good event that rules made for these tests refuse.
fn refused(number: u64) -> Result<Vec<u8>> {
    Ok(String::from_utf8(event(number))?.replace("user_login", "refused").into_bytes())
}

async fn send_all(bed: &Bed, payloads: &[Vec<u8>]) -> Result<()> {
    let producer = bed.kafka.producer()?;
    let sending = payloads.iter().map(async |payload| {
        let record = FutureRecord::to(&bed.topic).partition(0).key("k").payload(payload);
        producer.send(record, SOON).await.map_err(|(error, _)| error)
    });
    try_join_all(sending).await?;
    Ok(())
}

/// Sends the first record and starts a consumer in front of a table that is locked, then sends the others: they are one
/// batch.
async fn gather(bed: &Bed, options: &ConsumerOptions, name: &str, payloads: &[Vec<u8>]) -> Result<Consumer> {
    let pool = bed.pool().await?;
    let mut lock = pool.begin().await?;
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await?;
    let (first, others) = payloads.split_at(1);
    send_all(bed, first).await?;
    let consumer = Consumer::start(name, options)?;
    let until_failed = async |attempts: f64| {
        wait::until_true("attempts have waited for the lock", SOON, || async {
            Ok(consumer.metric("transaction_seconds_count{outcome=\"failed\"").await? >= attempts)
        })
        .await
        .map_err(|error| error.context(consumer.log()))
    };
    until_failed(1.0).await?;
    send_all(bed, others).await?;
    // An attempt waits for the lock for 5 s, which is time enough to read all that is there.
    until_failed(2.0).await?;
    lock.commit().await?;
    Ok(consumer)
}

async fn until_read(bed: &Bed, consumer: &Consumer, records: i64) -> Result<()> {
    wait::until_true("the offset moves", SOON, || async {
        let done = bed.number("SELECT coalesce(sum(next_offset), 0)::bigint FROM pipeline_offsets").await?;
        ensure!(done == records, "{done} of {records} records");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))
}

async fn until_unready(consumer: &Consumer, text: &str) -> Result<()> {
    wait::until_true("it is unready and says why", SOON, || async {
        let (status, reason) = consumer.get("/readyz").await?;
        ensure!(status == 503 && reason.contains(text), "{status} {reason}");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))
}

async fn dead_letters(bed: &Bed) -> Result<i64> {
    bed.number("SELECT count(*) FROM dead_letters").await
}

/// A topic with one partition, and the tables as a consumer makes them.
async fn bed_with_tables(topic: &str) -> Result<(Bed, PgPool)> {
    let bed = Bed::start(topic, 1).await?;
    testbed::process::output(bed.options().command(&["migrate"])?).await?;
    let pool = bed.pool().await?;
    Ok((bed, pool))
}

#[tokio::test]
async fn a_few_refused_rows_of_many_cost_few_statements_and_their_neighbours_nothing() -> Result<()> {
    let settings = vec![("shared_preload_libraries".to_owned(), "pg_stat_statements".to_owned())];
    let (kafka, postgres) = tokio::try_join!(
        Kafka::start(KafkaOptions::default()),
        Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() })
    )?;
    kafka.create_topic("checked", 1).await?;
    let url = postgres.url();
    let bed = Bed { kafka, postgres, topic: "checked".to_owned(), url };
    let options = bed.options().with("BATCH_MAX_EVENTS", 20_000).with("BATCH_MAX_BYTES", 64 << 20);
    testbed::process::output(options.command(&["migrate"])?).await?;
    let pool = bed.pool().await?;
    execute(
        &pool,
        "CREATE EXTENSION pg_stat_statements; ALTER TABLE events ADD CONSTRAINT modest CHECK (event_type <> 'refused')",
    )
    .await?;

    // First all keys are new, so that rows go in by COPY; then a tenth of them is known, and inserts pass over them.
    for (round, known) in [(0, 0), (1, 1_000)] {
        let begin = round * 10_000;
        let bad = [begin + 1_500, begin + 4_999, begin + 9_998];
        let mut payloads: Vec<Vec<u8>> = Vec::new();
        for number in begin..begin + 10_000 {
            payloads.push(if bad.contains(&number) { refused(number)? } else { event(number) });
        }
        payloads.extend((0..known).map(event));
        execute(&pool, "SELECT pg_stat_statements_reset()").await?;
        let before = bed.number("SELECT n_tup_ins::bigint FROM pg_stat_user_tables WHERE relname = 'events'");
        let before = before.await?;
        let mut consumer = gather(&bed, &options, &format!("consumer-{round}"), &payloads).await?;
        let read = i64::try_from(begin + 10_000 + known)?;
        until_read(&bed, &consumer, read).await?;

        let rounds = i64::try_from(round + 1)?;
        assert_eq!(bed.rows().await?, rounds * 9_997);
        assert_eq!(dead_letters(&bed).await?, rounds * 3);
        let letters: Vec<(i64, String)> =
            sqlx::query_as("SELECT \"offset\", reason FROM dead_letters ORDER BY \"offset\" DESC LIMIT 3")
                .fetch_all(&pool)
                .await?;
        let offsets = bad.iter().rev().map(|offset| i64::try_from(*offset));
        let offsets: Vec<i64> = offsets.collect::<Result<_, _>>()?;
        assert_eq!(letters.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), offsets);
        assert!(letters.iter().all(|(_, reason)| reason == "refused_by_database"));
        bed.rollups_are_right().await?;

        let statements = bed
            .number("SELECT sum(calls)::bigint FROM pg_stat_statements WHERE query ~* 'piece|events'")
            .await?;
        let committed = consumer.metric("transaction_seconds_count{outcome=\"committed\"").await?;
        consumer.kill();
        // The counters of a session are told when it ends, at the latest.
        let inserted = wait::until("the server has counted", SOON, || async {
            let now = "SELECT n_tup_ins::bigint FROM pg_stat_user_tables WHERE relname = 'events'";
            let inserted = bed.number(now).await? - before;
            Ok((inserted >= 9_997).then_some(inserted))
        })
        .await?;
        println!("{statements} statements, {committed} transactions, {inserted} rows sent");
        ensure!(statements < 300, "{statements} statements: the search must be by halves");
        ensure!(inserted < 60_000, "{inserted} rows: a refused row must not cost all others again");
        ensure!(committed < 5.0, "{committed} transactions");
    }
    Ok(())
}

/// Both rows pass alone, one of them is refused beside the other; and the server says so at the commit only, or at once.
#[tokio::test]
async fn rows_that_contradict_each_other_are_told_apart_also_at_the_commit() -> Result<()> {
    let (bed, pool) = bed_with_tables("contrary").await?;
    let mut done = 0;
    for (user, rule) in [(1, "DEFERRABLE INITIALLY DEFERRED"), (2, "")] {
        execute(
            &pool,
            &format!("ALTER TABLE events ADD CONSTRAINT one_{user} UNIQUE (user_id, \"timestamp\") {rule}"),
        )
        .await?;
        let mut payloads = Vec::new();
        for number in [2, 0, 0, 1] {
            let text = String::from_utf8(event(done + payloads.len() as u64))?;
            payloads.push(text.replace("446655440000", &format!("44665544{user}{number:03}")).into_bytes());
        }
        done += 4;
        let mut consumer = gather(&bed, &bed.options(), &format!("consumer-{user}"), &payloads).await?;
        until_read(&bed, &consumer, i64::try_from(done)?).await?;
        assert_eq!((bed.rows().await?, dead_letters(&bed).await?), (i64::from(user) * 3, i64::from(user)));
        consumer.kill();
        execute(&pool, &format!("ALTER TABLE events DROP CONSTRAINT one_{user}")).await?;
    }
    bed.rollups_are_right().await
}

/// A trigger of the user's own raises an error: for one record, or for all. One record alone cannot tell.
#[tokio::test]
async fn a_record_that_a_trigger_refuses_is_a_dead_letter_once_others_pass() -> Result<()> {
    let (bed, pool) = bed_with_tables("raised").await?;
    execute(
        &pool,
        "CREATE FUNCTION picky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF NEW.event_type = 'refused' THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER picky BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION picky()",
    )
    .await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    bed.send(0, &refused(1)?).await?;
    until_unready(&consumer, "not this one").await?;
    assert_eq!(dead_letters(&bed).await?, 0);
    bed.send(0, &event(2)).await?;
    until_read(&bed, &consumer, 2).await?;
    assert_eq!((bed.rows().await?, dead_letters(&bed).await?), (1, 1));
    consumer.ready().await
}

/// The events of a quiet topic come one by one. A rule that refuses one of them is believed, one that refuses the next as well
/// may be a mistake: that waits until another event passes.
#[tokio::test]
async fn a_rule_that_refuses_one_event_after_the_other_is_believed_once() -> Result<()> {
    let (bed, pool) = bed_with_tables("believed").await?;
    execute(&pool, "ALTER TABLE events ADD CONSTRAINT strict CHECK (event_type <> 'refused')").await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    bed.send(0, &refused(1)?).await?;
    until_read(&bed, &consumer, 1).await?;
    assert_eq!(dead_letters(&bed).await?, 1);
    bed.send(0, &refused(2)?).await?;
    until_unready(&consumer, "no row passes").await?;
    assert_eq!(dead_letters(&bed).await?, 1);
    bed.send(0, &event(3)).await?;
    until_read(&bed, &consumer, 3).await?;
    assert_eq!((bed.rows().await?, dead_letters(&bed).await?), (1, 2));
    consumer.ready().await
}

/// A column that the consumer does not write may be filled from the record, by the table: one record of many has nothing for it.
#[tokio::test]
async fn a_column_that_is_filled_from_the_record_refuses_the_record_alone() -> Result<()> {
    let (bed, pool) = bed_with_tables("derived").await?;
    let (mut done, mut stored) = (0, 0);
    for (column, rule) in [
        ("tenant", "text GENERATED ALWAYS AS (nullif(event_type, 'refused')) STORED NOT NULL"),
        (
            "length",
            "integer GENERATED ALWAYS AS (1 / CASE event_type WHEN 'refused' THEN 0 ELSE 1 END) STORED",
        ),
    ] {
        execute(&pool, &format!("TRUNCATE events; ALTER TABLE events ADD COLUMN {column} {rule}")).await?;
        let payloads = [event(done), refused(done + 1)?, event(done + 2)];
        done += 3;
        stored += 1;
        let mut consumer = gather(&bed, &bed.options(), &format!("consumer-{column}"), &payloads).await?;
        until_read(&bed, &consumer, i64::try_from(done)?).await?;
        assert_eq!((bed.rows().await?, dead_letters(&bed).await?), (2, stored), "{column}");
        consumer.kill();
        execute(&pool, &format!("ALTER TABLE events DROP COLUMN {column}")).await?;
    }
    Ok(())
}

/// What the surroundings cause: each is told and waited out, with no dead letter.
#[tokio::test]
async fn mistakes_in_the_database_make_no_dead_letters() -> Result<()> {
    let (bed, pool) = bed_with_tables("mistaken").await?;
    let cases = [
        (
            "ALTER TABLE events ADD COLUMN tenant text; ALTER TABLE events ALTER COLUMN tenant SET NOT NULL",
            "DROP NOT NULL",
            "ALTER TABLE events DROP COLUMN tenant",
        ),
        // As a table of the older service ends.
        (
            "ALTER TABLE events ALTER COLUMN id DROP IDENTITY; ALTER TABLE events ALTER COLUMN id TYPE integer; \
             CREATE SEQUENCE few AS integer OWNED BY events.id; SELECT setval('few', 2147483647); \
             ALTER TABLE events ALTER COLUMN id SET DEFAULT nextval('few')",
            "ALTER COLUMN id TYPE bigint",
            "ALTER TABLE events ALTER COLUMN id TYPE bigint; ALTER SEQUENCE few AS bigint",
        ),
        (
            "INSERT INTO events (id, event_type, user_id, service, \"timestamp\", data) \
             SELECT (SELECT last_value FROM few) + n, 'a', gen_random_uuid(), 's', now(), '{}' FROM generate_series(1, 1000) AS n",
            "setval(pg_get_serial_sequence",
            "DELETE FROM events WHERE event_type = 'a'",
        ),
        (
            "ALTER TABLE events ADD CONSTRAINT strict CHECK (event_type <> 'refused') NOT VALID",
            "no row passes",
            "ALTER TABLE events DROP CONSTRAINT strict",
        ),
        // An expression that fails on them is no fault of theirs, either.
        (
            "ALTER TABLE events ADD CONSTRAINT numeric \
             CHECK (CASE event_type WHEN 'refused' THEN event_type::integer > 0 ELSE true END) NOT VALID",
            "no row passes",
            "ALTER TABLE events DROP CONSTRAINT numeric",
        ),
    ];
    let mut done = 0;
    for (accident, reason, repair) in cases {
        execute(&pool, accident).await.with_context(|| accident.to_owned())?;
        // All but the first are one batch, so that the last mistake refuses every row of it.
        let mut payloads = vec![event(done)];
        for number in done + 1..done + 5 {
            payloads.push(refused(number)?);
        }
        done += 5;
        let mut consumer = gather(&bed, &bed.options(), &format!("consumer-{done}"), &payloads).await?;
        until_unready(&consumer, reason).await?;
        execute(&pool, repair).await.with_context(|| repair.to_owned())?;
        until_read(&bed, &consumer, i64::try_from(done)?).await?;
        assert_eq!(dead_letters(&bed).await?, 0, "{accident}");
        assert_eq!(bed.rows().await?, i64::try_from(done)?, "{accident}");
        consumer.kill();
    }
    Ok(())
}

/// A statement with more rows than the server can deal with in time is ended by it: fewer rows are sent at once.
#[tokio::test]
async fn a_server_too_slow_for_a_whole_batch_gets_smaller_pieces() -> Result<()> {
    let (bed, pool) = bed_with_tables("tardy").await?;
    execute(
        &pool,
        "CREATE FUNCTION tardy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF (SELECT count(*) FROM fresh) > 300 THEN RAISE EXCEPTION 'canceling statement' USING ERRCODE = '57014'; END IF; \
         RETURN NULL; END $$; \
         CREATE TRIGGER tardy AFTER INSERT ON events REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION tardy()",
    )
    .await?;
    let mut payloads: Vec<_> = (0..3_000).map(event).collect();
    // What is refused is found as well, in pieces that are small enough.
    payloads.insert(1_000, br#"{"event_type":"a","user_id":"550e8400-e29b-41d4-a716-446655440000","service":"s","timestamp":"2024-11-09T10:30:00Z","data":{"n":99999e131070}}"#.to_vec());
    let consumer = gather(&bed, &bed.options(), "one", &payloads).await?;
    until_read(&bed, &consumer, 3_001).await?;
    assert_eq!((bed.rows().await?, dead_letters(&bed).await?), (3_000, 1));
    Ok(())
}

/// A producer may write any number as a record's timestamp. PostgreSQL cannot hold all of them.
#[tokio::test]
async fn a_timestamp_beyond_all_calendars_loses_no_letter() -> Result<()> {
    let bed = Bed::start("unmade", 0).await?;
    let any_time = [("message.timestamp.after.max.ms", "9223372036854775807")];
    bed.kafka.create_topic_with("beyond", 1, &any_time).await?;
    let bed = Bed { topic: "beyond".to_owned(), ..bed };
    let producer = bed.kafka.producer()?;
    for (payload, stamp) in [(&b"not json"[..], i64::MAX - 1), (b"neither", 1_731_148_200_000)] {
        let record = FutureRecord::to(&bed.topic).partition(0).key("k").payload(payload).timestamp(stamp);
        producer.send(record, SOON).await.map_err(|(error, _)| error)?;
    }
    bed.send(0, &event(1)).await?;
    let consumer = bed.consumer("one")?;
    until_read(&bed, &consumer, 3).await?;
    assert_eq!((bed.rows().await?, dead_letters(&bed).await?), (1, 2));
    let without = "SELECT count(*) FROM dead_letters WHERE record_timestamp IS NULL AND detail LIKE '%9223372036854775806 ms%'";
    assert_eq!(bed.number(without).await?, 1);
    assert_eq!(
        bed.number("SELECT count(*) FROM dead_letters WHERE record_timestamp = '2024-11-09 10:30Z'").await?,
        1
    );
    let listed = testbed::process::output(bed.options().command(&["dead-letters", "list"])?).await?;
    assert_eq!(listed.lines().count(), 3, "{listed}");
    Ok(())
}
