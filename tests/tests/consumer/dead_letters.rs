//! Looking at dead letters and sending them again.

use anyhow::{Result, ensure};

use crate::support::{Bed, SOON, event};
use testbed::wait;

async fn dead_letters(bed: &Bed, arguments: &[&str]) -> Result<String> {
    let arguments: Vec<&str> = ["dead-letters"].into_iter().chain(arguments.iter().copied()).collect();
    testbed::process::output(bed.options().command(&arguments)?).await
}

#[tokio::test]
async fn letters_are_listed_shown_and_replayed_once() -> Result<()> {
    let bed = Bed::start("again", 2).await?;
    let large = event(1).len() as u64 - 1;
    let options = bed.options().with("EVENT_MAX_BYTES", large);
    let strict = testbed::Consumer::start("strict", &options)?;
    for number in 1..4 {
        bed.send(0, &event(number)).await?;
    }
    bed.send(1, b"not json").await?;
    wait::until_true("four letters", SOON, || async {
        Ok(bed.number("SELECT count(*) FROM dead_letters").await? == 4)
    })
    .await
    .map_err(|error| error.context(strict.log()))?;
    drop(strict);

    let list = dead_letters(&bed, &["list", "--reason", "too_large"]).await?;
    ensure!(list.lines().count() == 4 && list.contains("more than EVENT_MAX_BYTES"), "{list}");
    let json = dead_letters(&bed, &["list", "--output", "json", "--partition", "1"]).await?;
    let letter: serde_json::Value = serde_json::from_str(json.trim())?;
    ensure!(letter["value"] == "not json" && letter["reason"] == "invalid_json", "{letter}");
    let shown = dead_letters(&bed, &["show", &letter["id"].to_string()]).await?;
    ensure!(shown.contains("again partition 1 offset 0") && shown.contains("not json"), "{shown}");
    let count = dead_letters(&bed, &["count"]).await?;
    ensure!(count.contains("3  too_large") && count.contains("4  in all"), "{count}");

    // The fault is mended: the limit is larger now. First a look, then the real thing, then again for nothing.
    let _lenient = bed.consumer("lenient")?;
    let plan = dead_letters(&bed, &["replay", "--reason", "too_large", "--dry-run"]).await?;
    ensure!(plan.contains("would replay 3 dead letters"), "{plan}");
    for expected in ["replayed 3", "replayed 0"] {
        let done = dead_letters(&bed, &["replay", "--reason", "too_large"]).await?;
        ensure!(done.contains(expected), "{done}");
    }
    bed.until_rows(3).await?;
    assert_eq!(bed.number("SELECT count(*) FROM dead_letters").await?, 4, "the letters stay, marked");
    Ok(())
}

#[tokio::test]
async fn an_unknown_letter_or_reason_is_named() -> Result<()> {
    let bed = Bed::start("nobody", 1).await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    let unknown = dead_letters(&bed, &["show", "77"]).await.map_err(|error| format!("{error:#}"));
    ensure!(
        unknown.as_ref().is_err_and(|text| text.contains("no dead letter with the id 77")),
        "{unknown:?}"
    );
    let reason = dead_letters(&bed, &["list", "--reason", "bad"]).await.map_err(|error| format!("{error:#}"));
    ensure!(reason.as_ref().is_err_and(|text| text.contains("not a reason; the reasons are")), "{reason:?}");
    Ok(())
}
