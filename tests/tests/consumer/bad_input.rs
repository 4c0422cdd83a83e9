//! Wrong settings, wrong servers, wrong tables: each says what is wrong and the way out.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testbed::{Consumer, wait};

use crate::support::{Bed, SOON, event};

/// Exit code, standard output and standard error.
fn run(mut command: Command) -> Result<(Option<i32>, String, String)> {
    let output = command.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

fn bare(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Command> {
    let mut command = Command::new(testbed::consumer_binary()?);
    command.args(arguments).env_clear().envs(variables.iter().copied());
    Ok(command)
}

#[test]
fn malformed_settings_are_one_clear_line_and_exit_code_2() -> Result<()> {
    let good = [("KAFKA_BROKERS", "127.0.0.1:1"), ("DATABASE_URL", "postgres://u:secret-word@127.0.0.1:1/d")];
    let cases = [
        (vec![], "KAFKA_BROKERS is not set"),
        (vec![good[0]], "DATABASE_URL is not set"),
        (vec![good[0], good[1], ("KAFKA_TOPC", "x")], "did you mean KAFKA_TOPIC?"),
        (
            vec![good[0], good[1], ("BATCH_MAX_EVENTS", "many")],
            "BATCH_MAX_EVENTS: `many` is not a whole number",
        ),
    ];
    for (variables, expected) in cases {
        let (code, _, errors) = run(bare(&[], &variables)?)?;
        assert_eq!(code, Some(2), "{errors}");
        assert!(errors.contains(expected) && errors.trim().lines().count() == 1, "{errors}");
        assert!(!errors.contains("secret-word"));
    }
    Ok(())
}

#[test]
fn help_names_every_setting_and_version_answers() -> Result<()> {
    let (code, help, _) = run(bare(&["--help"], &[])?)?;
    assert_eq!(code, Some(0));
    for setting in
        ["METRICS_PORT", "KAFKA_BROKERS", "DATABASE_URL", "DEDUPLICATION_MODE", "BATCH_MAX_BYTES", "OTEL_*"]
    {
        assert!(help.contains(setting), "{setting} is missing in:\n{help}");
    }
    let (code, version, _) = run(bare(&["--version"], &[])?)?;
    assert!(code == Some(0) && version.starts_with("analytics-consumer "), "{version}");
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_a_missing_database_and_a_table_of_another_shape_are_named() -> Result<()> {
    let bed = Bed::start("wrong", 1).await?;
    let pool = bed.pool().await?;
    sqlx::raw_sql(
        "CREATE ROLE guarded LOGIN PASSWORD 'right'; CREATE TABLE other (id int, event_type text, user_id text); CREATE TABLE plain (event_key uuid)",
    )
    .execute(&pool)
    .await?;
    let missing = bed.url.rsplit_once('/').map(|(server, _)| format!("{server}/nowhere")).unwrap_or_default();
    let cases = [
        (bed.options().with("DATABASE_URL", missing), "\"nowhere\" does not exist"),
        (
            bed.options().with("DATABASE_TABLE", "other"),
            "table \"other\" exists with another shape: column user_id has type text, needed is uuid; if it is a table of events, run: \
             ALTER TABLE \"other\" ALTER COLUMN \"user_id\" TYPE uuid USING \"user_id\"::uuid",
        ),
        (
            bed.options().with("DATABASE_URL", "postgres://u:hidden@127.0.0.1:1/d"),
            "connect to PostgreSQL at 127.0.0.1:1/d",
        ),
    ];
    for (options, expected) in cases {
        let (code, _, errors) = run(options.command(&["migrate"])?)?;
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains(expected), "expected {expected} in:\n{errors}");
        assert!(!errors.contains("hidden"), "{errors}");
    }
    let touched =
        "SELECT count(*) FROM pg_attribute WHERE attrelid = 'other'::regclass AND attname = 'event_key'";
    assert_eq!(bed.number(touched).await?, 0, "somebody else's table was changed");
    Ok(())
}

#[tokio::test]
async fn a_missing_topic_is_named_and_read_as_soon_as_it_is_there() -> Result<()> {
    let bed = Bed::start("late", 0).await?;
    let options = bed.options().with("KAFKA_PROPERTIES", "topic.metadata.refresh.interval.ms=1000");
    let consumer = Consumer::start("one", &options)?;
    wait::until_true("it says which topic", SOON, || async {
        let (status, reason) = consumer.get("/readyz").await?;
        anyhow::ensure!(
            status == 503 && reason.contains("the topic `late` does not exist"),
            "{status} {reason}"
        );
        Ok(true)
    })
    .await?;
    assert_eq!(consumer.get("/livez").await?.0, 200);
    bed.kafka.create_topic("late", 2).await?;
    bed.send(1, &event(1)).await?;
    bed.until_rows(1).await.map_err(|error| error.context(consumer.log()))
}

#[tokio::test]
async fn an_unreachable_kafka_is_named_and_a_stop_is_still_quick() -> Result<()> {
    let bed = Bed::start("away", 1).await?;
    let mut consumer = Consumer::start("one", &bed.options().with("KAFKA_BROKERS", "127.0.0.1:1"))?;
    wait::until_true("it says so", SOON, || async {
        let (status, reason) = consumer.get("/readyz").await?;
        anyhow::ensure!(
            status == 503 && reason.contains("no Kafka broker can be reached"),
            "{status} {reason}"
        );
        Ok(true)
    })
    .await?;
    consumer.signal(rustix::process::Signal::TERM);
    assert!(consumer.ended(Duration::from_secs(15)).await?.success(), "{}", consumer.log());
    Ok(())
}

/// Kafka's names of headers are bytes to most clients; one that is no UTF-8 must not end anything.
#[tokio::test]
async fn a_header_whose_name_is_no_text_is_kept_like_any_other() -> Result<()> {
    let bed = Bed::start("binary", 1).await?;
    for payload in [&b"not json"[..], &event(1)] {
        let mut producer = Command::new("kcat");
        producer.args(["-P", "-b", &bed.kafka.bootstrap(), "-t", &bed.topic, "-p", "0", "-H"]);
        producer.arg(OsStr::from_bytes(b"\xFFname=value")).stdin(Stdio::piped());
        let mut producer = producer.spawn()?;
        producer.stdin.take().context("a pipe")?.write_all(payload)?;
        ensure!(producer.wait()?.success(), "kcat could not produce");
    }
    let consumer = Consumer::start(
        "one",
        &bed.options().with("DEDUPLICATION_MODE", "header").with("DEDUPLICATION_NAME", "id"),
    )?;
    bed.until_rows(1).await.map_err(|error| error.context(consumer.log()))?;
    let kept = "SELECT count(*) FROM dead_letters WHERE headers = '[[{\"hex\": \"ff6e616d65\"}, \"value\"]]'";
    assert_eq!(bed.number(kept).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_record_over_the_limit_is_a_dead_letter_and_its_neighbours_are_stored() -> Result<()> {
    let bed = Bed::start("large", 1).await?;
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(60_000));
    for payload in [&event(1)[..], large.as_bytes(), &event(2)] {
        bed.send(0, payload).await?;
    }
    let consumer = Consumer::start("one", &bed.options().with("EVENT_MAX_BYTES", 50_000))?;
    bed.until_rows(2).await.map_err(|error| error.context(consumer.log()))?;
    assert_eq!(
        bed.number("SELECT octet_length(payload)::bigint FROM dead_letters WHERE reason = 'too_large'")
            .await?,
        60_008
    );
    Ok(())
}
