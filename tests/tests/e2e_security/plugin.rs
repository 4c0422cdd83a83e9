//! `kubectl apl`, as a person types it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::place::LATER;
use testbed::{cache, plugin_binary, process, wait};

use crate::world::Place;

const PIPELINE: &str = "clicks";

pub(crate) async fn the_frequent_things_are_short(place: &Place<'_>) -> Result<()> {
    place.apply(&place.pipeline(PIPELINE, json!({"scaling": {"mode": "Fixed", "replicas": 1}}))?).await?;
    place.consumers("one consumer", |count| count == 1).await?;
    let rows = place.produce(1, 3_000).await?;
    place.stored(rows).await?;

    status(place).await?;
    explain(place).await?;
    dead_letters(place).await?;
    pause_and_resume(place, rows).await?;
    validate(place).await?;
    completion(place).await?;
    let missing = apl(place, &["status", "nothing"]).await;
    let missing = format!("{:#}", missing.err().context("a pipeline that is not there was shown")?);
    ensure!(missing.contains("there is no AnalyticsPipeline `nothing` in namespace `plugin`"), "{missing}");
    Ok(())
}

/// Runs `kubectl apl … --namespace <the place's>`; kubectl finds the plugin by the PATH.
async fn apl(place: &Place<'_>, words: &[&str]) -> Result<String> {
    let mut command = with_plugin(place, Path::new("/nowhere"))?;
    command.arg("apl").args(["--namespace", &place.namespace]).args(words);
    process::output(command).await
}

fn with_plugin(place: &Place<'_>, further: &Path) -> Result<Command> {
    let mut command = place.world.cluster.kubectl_command()?;
    let (kubectl, plugin) = (cache::part("kubernetes")?, plugin_binary()?);
    let folder = plugin.parent().context("a program lies in a folder")?;
    let usual = std::env::var("PATH").unwrap_or_default();
    let folders = [kubectl.as_path(), folder, further].map(|folder| folder.display().to_string());
    command.env("PATH", format!("{}:{usual}", folders.join(":")));
    Ok(command)
}

async fn status(place: &Place<'_>) -> Result<()> {
    wait::until_true("the status shows what matters", LATER, || async {
        let text = apl(place, &["status", PIPELINE]).await?;
        for word in ["Ready", "ConsumersReady", "LagAvailable", "PARTITION", "POD", "REASON"] {
            ensure!(text.contains(word), "`{word}` is lacking:\n{text}");
        }
        let partitions = text.lines().filter(|line| line.contains(&format!("{PIPELINE}-consumer-"))).count();
        // One line about the pod, and one for each of its partitions.
        ensure!(partitions == 5, "{partitions} lines name the consumer:\n{text}");
        Ok(true)
    })
    .await
}

async fn explain(place: &Place<'_>) -> Result<()> {
    let text = apl(place, &["explain", PIPELINE]).await?;
    for word in ["1 consumers, as written in `scaling.replicas`", "events wait in 4 partitions"] {
        ensure!(text.contains(word), "`{word}` is lacking:\n{text}");
    }
    Ok(())
}

/// What was kept aside is listed, counted and could be sent again.
async fn dead_letters(place: &Place<'_>) -> Result<()> {
    let kept: i64 =
        sqlx::query_scalar("SELECT count(*) FROM dead_letters").fetch_one(&place.database).await?;
    ensure!(kept > 0, "the generator has sent nothing malformed");
    let reasons: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT reason FROM dead_letters").fetch_all(&place.database).await?;
    let status = apl(place, &["status", PIPELINE]).await?;
    for reason in &reasons {
        ensure!(status.contains(reason.as_str()), "`{reason}` is lacking:\n{status}");
    }
    let list = apl(place, &["dead-letters", PIPELINE]).await?;
    ensure!(list.lines().count() > 1, "{list}");
    let count = apl(place, &["dead-letters", PIPELINE, "count"]).await?;
    let counted: i64 = count.split_whitespace().filter_map(|word| word.parse::<i64>().ok()).sum();
    ensure!(counted >= kept, "{kept} dead letters, and the plugin says:\n{count}");
    let replay = apl(place, &["dead-letters", PIPELINE, "replay", "--dry-run"]).await?;
    ensure!(!replay.trim().is_empty(), "a dry run says what it would do");
    Ok(())
}

async fn pause_and_resume(place: &Place<'_>, rows: i64) -> Result<()> {
    let said = apl(place, &["pause", PIPELINE]).await?;
    ensure!(said.contains("kubectl apl resume clicks"), "{said}");
    place.consumers("no consumer", |count| count == 0).await?;
    let again = apl(place, &["pause", PIPELINE]).await?;
    ensure!(again.contains("was paused already"), "{again}");
    // Without a consumer there is nowhere to look from, and the way out is named.
    let nowhere = apl(place, &["dead-letters", PIPELINE]).await;
    let nowhere = format!("{:#}", nowhere.err().context("dead letters were read without a consumer")?);
    ensure!(nowhere.contains("kubectl apl resume clicks"), "{nowhere}");
    let more = place.produce(2, 500).await?;
    apl(place, &["resume", PIPELINE]).await?;
    place.stored(rows + more).await
}

/// The same words as the API server's, without one.
async fn validate(place: &Place<'_>) -> Result<()> {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples/user-events.yaml");
    let good = apl(place, &["validate", "-f", &sample.display().to_string()]).await?;
    ensure!(good.contains("user-events is good"), "{good}");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bad.yaml");
    let bad = place.pipeline("bad", json!({"scaling": {"minReplicas": 3, "maxReplicas": 2}}))?;
    std::fs::write(&file, bad.to_string())?;
    let refused = apl(place, &["validate", "-f", &file.display().to_string()]).await;
    let refused = format!("{:#}", refused.err().context("what the API server refuses was found good")?);
    ensure!(refused.contains("`minReplicas` must be less than or equal to `maxReplicas`"), "{refused}");
    Ok(())
}

async fn completion(place: &Place<'_>) -> Result<()> {
    let script = apl(place, &["completion", "bash"]).await?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &script)?;
    // What the shell offers behind `kubectl-apl s`.
    let ask = format!(
        ". {} && function=$(complete -p kubectl-apl | sed 's/.*-F \\([^ ]*\\).*/\\1/') && COMP_WORDS=(kubectl-apl s) COMP_CWORD=1 && $function kubectl-apl s kubectl-apl && echo \"${{COMPREPLY[@]}}\"",
        file.path().display()
    );
    let mut bash = Command::new("bash");
    bash.args(["-c", &ask]);
    let offered = process::output(bash).await?;
    ensure!(offered.trim() == "status", "the shell offers `{offered}`");

    // And behind `kubectl apl`, for which kubectl asks the same program by another name.
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::symlink(plugin_binary()?, folder.path().join("kubectl_complete-apl"))?;
    let mut ask = with_plugin(place, folder.path())?;
    ask.args(["__complete", "apl", "status", "--namespace", &place.namespace, "cl"]);
    let offered = process::output(ask).await?;
    ensure!(offered.lines().next() == Some(PIPELINE), "kubectl offers `{offered}`");
    Ok(())
}
