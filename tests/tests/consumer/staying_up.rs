//! What the surroundings do to a consumer that goes on: it waits, says why, and loses nothing.

use anyhow::{Result, ensure};
use rdkafka::producer::FutureRecord;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, PgPool};
use testbed::{Consumer, ConsumerOptions, Kafka, KafkaOptions, Postgres, PostgresOptions, wait};

use crate::support::{Bed, SOON, event, together, until_logged};

/// Runs statements that a person or an accident might.
async fn execute(pool: &PgPool, statements: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(pool).await?;
    Ok(())
}

const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'analytics-consumer%'";

/// Waits until the consumer is unready for a reason with `text` in it, and still alive.
async fn until_unready(consumer: &Consumer, text: &str) -> Result<()> {
    wait::until_true("it is unready and says why", SOON, || async {
        let (status, reason) = consumer.get("/readyz").await?;
        ensure!(status == 503 && reason.contains(text), "{status} {reason}");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))?;
    assert_eq!(consumer.get("/livez").await?.0, 200);
    Ok(())
}

/// A consumer that meets `accident`, says `reason`, and stores everything once `repair` is done. The accident happens to
/// an empty table in front of a backlog.
async fn outlives(topic: &str, accident: &str, reason: &str, repair: &str) -> Result<(Bed, Consumer)> {
    let bed = Bed::start(topic, 4).await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    let pool = bed.pool().await?;
    execute(&pool, accident).await?;
    let counts = bed.produce(53, 4, 4_000, None).await?;
    until_unready(&consumer, reason).await?;
    let pool = bed.pool().await?;
    execute(&pool, repair).await?;
    bed.settled(&counts).await.map_err(|error| error.context(consumer.log()))?;
    consumer.ready().await?;
    Ok((bed, consumer))
}

/// What a consumer sees after a failover to a replica: the same address, and a server that takes no writes.
#[tokio::test]
async fn a_failover_to_a_read_only_replica_is_waited_out() -> Result<()> {
    let reload = "SELECT pg_reload_conf()";
    let accident = format!("ALTER SYSTEM SET default_transaction_read_only = on; {reload}; {CUT}");
    // The accident is on its way when it is repaired, and what repairs it must be allowed to write.
    let repair = format!(
        "SET default_transaction_read_only = off; ALTER SYSTEM RESET default_transaction_read_only; {reload}"
    );
    // ALTER SYSTEM may not stand in a transaction, which several statements at once are.
    let bed = Bed::start("replica", 4).await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    wait::until_true("every partition is taken over", SOON, || async {
        Ok(bed.number("SELECT count(*) FROM pipeline_offsets").await? == 4)
    })
    .await?;
    let pool = bed.pool().await?;
    for statement in accident.split("; ") {
        execute(&pool, statement).await?;
    }
    let counts = bed.produce(53, 4, 4_000, None).await?;
    until_unready(&consumer, "read-only").await?;
    let mut session = pool.acquire().await?;
    for statement in repair.split("; ") {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut *session).await?;
    }
    bed.settled(&counts).await.map_err(|error| error.context(consumer.log()))?;
    consumer.ready().await
}

#[tokio::test]
async fn a_full_disk_makes_no_dead_letters_and_is_waited_out() -> Result<()> {
    let accident = "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'could not extend file: No space left on device'; END $$; \
         CREATE TRIGGER full_disk BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION full_disk()";
    let (_bed, consumer) =
        outlives("full", accident, "No space left on device", "DROP TRIGGER full_disk ON events").await?;
    let failed = consumer.metric("database_errors_total{fault=\"resources\"").await?;
    ensure!(failed >= 1.0, "{}", consumer.get("/metrics").await?.1);
    Ok(())
}

#[tokio::test]
async fn a_server_without_free_connections_is_waited_out() -> Result<()> {
    let bed = Bed::start("crowded", 4).await?;
    let pool = bed.pool().await?;
    execute(&pool, "CREATE ROLE tenant LOGIN PASSWORD 'tenant'; GRANT ALL ON SCHEMA public TO tenant")
        .await?;
    let url = bed.url.replacen("analytics:analytics@", "tenant:tenant@", 1);
    let mut consumer = Consumer::start("one", &ConsumerOptions::new(&bed.kafka, &bed.topic, &url))?;
    consumer.ready().await?;
    // No connection is free for this role, and those that it had are gone.
    execute(&pool, "ALTER ROLE tenant CONNECTION LIMIT 0").await?;
    execute(&pool, CUT).await?;
    let counts = bed.produce(59, 4, 4_000, None).await?;
    until_unready(&consumer, "too many connections").await?;
    execute(&pool, "ALTER ROLE tenant CONNECTION LIMIT -1").await?;
    bed.settled(&counts).await.map_err(|error| error.context(consumer.log()))?;
    consumer.ready().await
}

/// One writer waits for a lock; the other has nothing to do, and must not speak for it.
#[tokio::test]
async fn a_partition_that_cannot_move_makes_it_unready_and_holds_up_no_other_writer() -> Result<()> {
    let bed = Bed::start("locked", 2).await?;
    let mut consumer = Consumer::start("one", &bed.options().with("BATCH_MAX_EVENTS", 200))?;
    consumer.ready().await?;
    wait::until_true("both partitions are taken over", SOON, || async {
        Ok(bed.number("SELECT count(*) FROM pipeline_offsets").await? == 2)
    })
    .await?;
    let (pool, holder) = (bed.pool().await?, bed.pool().await?);
    // A session at work: one that waits for its client would be taken for a frozen consumer's and ended.
    let holding = tokio::spawn(async move {
        let hold =
            "UPDATE pipeline_offsets SET updated_at = now() WHERE partition = 0; SELECT pg_sleep(3600)";
        execute(&holder, hold).await
    });
    let holds = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    wait::until_true("the lock is held", SOON, || async { Ok(bed.number(holds).await? == 1) }).await?;
    let counts = bed.produce(97, 2, 20_000, None).await?;
    let ends = bed.kafka.end_offsets(&bed.topic).await?;
    wait::until_true("the other partition is stored", SOON, || async {
        let done = bed.number("SELECT next_offset FROM pipeline_offsets WHERE partition = 1").await?;
        ensure!(Some(&done) == ends.get(&1), "{done} of {ends:?}");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))?;
    until_unready(&consumer, "lock timeout").await?;
    // The idle writer has looked after its connection, and found everything in order.
    let looked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SHOW transaction_read_only%' AND state = 'idle'";
    wait::until_true("the other writer is idle", SOON, || async { Ok(bed.number(looked).await? >= 1) })
        .await?;
    let (status, reason) = consumer.get("/readyz").await?;
    ensure!(status == 503 && reason.contains("lock timeout"), "{status} {reason}");
    execute(&pool, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        .await?;
    ensure!(holding.await?.is_err(), "the holder was cancelled");
    bed.settled(&counts).await.map_err(|error| error.context(consumer.log()))?;
    consumer.ready().await
}

/// Whoever migrates may take long, and the grace period of a pod is short.
#[tokio::test]
async fn a_stop_is_obeyed_while_somebody_else_migrates() -> Result<()> {
    let bed = Bed::start("migrating", 1).await?;
    let pool = bed.pool().await?;
    let mut session = pool.acquire().await?;
    let lock = format!("SELECT pg_advisory_lock({})", 0x616e_616c_7974_6963_i64);
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *session).await?;
    let mut consumer = bed.consumer("one")?;
    until_logged(&consumer, "Another process is migrating the schema").await?;
    consumer.signal(Signal::TERM);
    let status = consumer.ended(SOON).await?;
    ensure!(status.success(), "{status}: {}", consumer.log());
    Ok(())
}

/// Whoever may not see what others do still counts them.
#[tokio::test]
async fn the_servers_connections_are_counted_for_any_role() -> Result<()> {
    let bed = Bed::start("counted", 1).await?;
    let pool = bed.pool().await?;
    execute(&pool, "CREATE ROLE tenant LOGIN PASSWORD 'tenant'; GRANT ALL ON SCHEMA public TO tenant")
        .await?;
    let url = bed.url.replacen("analytics:analytics@", "tenant:tenant@", 1);
    let mut consumer = Consumer::start("one", &ConsumerOptions::new(&bed.kafka, &bed.topic, &url))?;
    consumer.ready().await?;
    // Two writers at most, the one that counts, and the test's own.
    wait::until_true("they are counted", SOON, || async {
        let (now, limit) = (
            consumer.metric("database_connections").await?,
            consumer.metric("database_connections_limit").await?,
        );
        ensure!((2.0..=10.0).contains(&now) && (limit - 197.0).abs() < 0.5, "{now} of {limit}");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))
}

/// Each statement takes longer than a record may wait anywhere else: the group is kept, the consumer stays ready.
#[tokio::test]
async fn a_slow_database_costs_time_and_neither_membership_nor_readiness() -> Result<()> {
    let bed = Bed::start("slow", 4).await?;
    let mut consumer = Consumer::start("one", &bed.options().with("BATCH_MAX_EVENTS", 500))?;
    consumer.ready().await?;
    let joined = consumer.metric("rebalances_total").await?;
    let pool = bed.pool().await?;
    execute(
        &pool,
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$; \
         CREATE TRIGGER slow BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION slow()",
    )
    .await?;
    let counts = bed.produce(61, 4, 8_000, None).await?;
    // Longer than the session timeout of 6 s: so many transactions of 2 s by two writers.
    wait::until_true("some batches are through", SOON, || async {
        let done = consumer.metric("transaction_seconds_count{outcome=\"committed\"").await?;
        ensure!(done >= 8.0, "{done} transactions");
        Ok(true)
    })
    .await?;
    assert_eq!(consumer.get("/readyz").await?.0, 200);
    let rebalances = consumer.metric("rebalances_total").await?;
    ensure!(
        (rebalances - joined).abs() < 0.5,
        "{rebalances} rebalances, {joined} before: {}",
        consumer.log()
    );
    execute(&pool, "DROP TRIGGER slow ON events").await?;
    bed.settled(&counts).await.map_err(|error| error.context(consumer.log()))
}

#[tokio::test]
async fn partitions_whose_leader_moves_are_followed() -> Result<()> {
    let (kafka, postgres) = tokio::try_join!(
        Kafka::start(KafkaOptions { brokers: 3, ..KafkaOptions::default() }),
        Postgres::start(PostgresOptions::default())
    )?;
    kafka.create_topic("led", 6).await?;
    let url = postgres.url();
    let mut bed = Bed { kafka, postgres, topic: "led".to_owned(), url };
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    let before = bed.produce(67, 6, 3_000, None).await?;
    // A broker that stops in good order gives its leaderships away first; one that is killed loses them.
    bed.kafka.stop_broker(0).await?;
    let between = bed.produce(71, 6, 3_000, None).await?;
    let counts = together(before, &between);
    bed.settled(&counts).await.map_err(|error| error.context(consumer.log()))?;
    bed.kafka.restart().await?;
    bed.kafka.kill_broker(1);
    let counts = together(counts, &bed.produce(73, 6, 3_000, None).await?);
    bed.settled(&counts).await.map_err(|error| error.context(consumer.log()))
}

#[tokio::test]
async fn producers_with_wrong_clocks_are_stored_like_others() -> Result<()> {
    let bed = Bed::start("clocks", 1).await?;
    let producer = bed.kafka.producer()?;
    let times =
        ["1901-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2024-11-09T10:30:00Z", "9999-12-31T23:59:59Z"];
    let now = chrono::Utc::now().timestamp_millis();
    for (number, time) in (0..).zip(times) {
        let payload = String::from_utf8(event(number))?.replace("2024-11-09T10:30:00Z", time);
        // The record's own time: the beginning of all time, or half an hour ahead. Twice: duplicates are told by their keys.
        for stamp in [0, now + 1_800_000] {
            let record =
                FutureRecord::to(&bed.topic).partition(0).key("k").payload(&payload).timestamp(stamp);
            producer.send(record, SOON).await.map_err(|(error, _)| error)?;
        }
    }
    let consumer = bed.consumer("one")?;
    wait::until_true("all are read", SOON, || async {
        Ok(bed.number("SELECT coalesce(sum(next_offset), 0)::bigint FROM pipeline_offsets").await? == 8)
    })
    .await
    .map_err(|error| error.context(consumer.log()))?;
    assert_eq!(bed.rows().await?, 4);
    let as_said = "SELECT count(*) FROM events WHERE \"timestamp\" IN ('1901-01-01 00:00Z', '1970-01-01 00:00Z', \
                   '2024-11-09 10:30Z', '9999-12-31 23:59:59Z')";
    assert_eq!(bed.number(as_said).await?, 4);
    assert_eq!(bed.number("SELECT count(*) FROM dead_letters").await?, 0);
    let latency = consumer.metric("end_to_end_seconds_sum").await?;
    ensure!(latency >= 0.0, "{latency} s: a record from the future counts as just written");
    bed.rollups_are_right().await
}

/// The rows and the offsets of a backup belong together, whatever Kafka remembers of the time after it.
#[tokio::test]
async fn an_older_backup_is_caught_up_with_from_its_own_offsets() -> Result<()> {
    let bed = Bed::start("backup", 4).await?;
    let mut consumer = bed.consumer("one")?;
    let before = bed.produce(79, 4, 3_000, None).await?;
    bed.settled(&before).await.map_err(|error| error.context(consumer.log()))?;
    consumer.kill();
    let url = wait::until("nobody uses the database any more", SOON, || async {
        let server = sqlx::PgPool::connect(&bed.postgres.url_of("postgres")).await?;
        execute(&server, "CREATE DATABASE backup TEMPLATE analytics").await?;
        Ok(Some(bed.postgres.url_of("backup")))
    })
    .await?;

    let mut consumer = bed.consumer("two")?;
    let counts = together(before, &bed.produce(83, 4, 3_000, None).await?);
    bed.settled(&counts).await.map_err(|error| error.context(consumer.log()))?;
    let group = format!("{}-group", bed.topic);
    wait::until_true("Kafka knows the offsets", SOON, || async {
        Ok(bed.kafka.lag(&group, &bed.topic).await? == 0)
    })
    .await?;
    consumer.kill();

    let restored = Consumer::start("three", &bed.options().with("DATABASE_URL", &url))?;
    let pool = sqlx::PgPool::connect(&url).await?;
    let total = i64::try_from(counts.produced())?;
    wait::until_true("the backup has caught up", SOON, || async {
        let done: i64 = sqlx::query_scalar("SELECT sum(next_offset)::bigint FROM pipeline_offsets")
            .fetch_one(&pool)
            .await?;
        ensure!(done == total, "{done} of {total} records");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(restored.log()))?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&pool).await?;
    let letters: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters").fetch_one(&pool).await?;
    assert_eq!((rows, letters), (i64::try_from(counts.distinct)?, i64::try_from(counts.malformed_total())?));
    Ok(())
}
