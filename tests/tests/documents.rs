//! Generated pages say what the programs say.

use std::process::Command;

use anyhow::{Context, Result};
use testbed::{consumer_binary, process};

const SETTINGS: &str = include_str!("../../docs/reference/settings.md");

#[tokio::test]
async fn the_settings_page_is_what_the_consumer_says() -> Result<()> {
    let mut command = Command::new(consumer_binary()?);
    command.arg("settings-reference");
    let said = process::output(command).await?;
    let (_, rest) = SETTINGS.split_once("<!-- begin -->\n").context("the page has no begin marker")?;
    let (written, _) = rest.split_once("<!-- end -->").context("the page has no end marker")?;
    assert!(written == said, "docs/reference/settings.md is out of date: run `make settings`");
    Ok(())
}
