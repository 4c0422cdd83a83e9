//! Generated pages say what the programs say.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use testbed::{consumer_binary, process};

const SETTINGS: &str = include_str!("../../docs/reference/settings.md");

const DELIVERY: &str = include_str!("../../docs/delivery.md");

/// Names in backticks that look like tests: many words joined by `_`.
fn test_names(page: &str) -> Vec<&str> {
    let quoted = page.split('`').skip(1).step_by(2);
    let is_name = |text: &&str| {
        text.matches('_').count() >= 3 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    quoted.filter(is_name).collect()
}

/// A promise whose test was renamed or removed is a promise without a test.
#[test]
fn every_test_that_the_delivery_page_names_exists() -> Result<()> {
    let mut sources = String::new();
    for suite in ["consumer", "chaos"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(suite);
        for entry in std::fs::read_dir(folder)? {
            sources.push_str(&std::fs::read_to_string(entry?.path())?);
        }
    }
    let names = test_names(DELIVERY);
    assert!(names.len() >= 30, "only {} tests are named: {names:?}", names.len());
    for name in names {
        assert!(
            sources.contains(&format!("async fn {name}()")),
            "docs/delivery.md names a test `{name}` that does not exist"
        );
    }
    // The other way round: what these tests show is said on the page.
    let shown =
        include_str!("consumer/staying_up.rs").lines().filter_map(|line| line.strip_prefix("async fn "));
    for name in shown.filter_map(|line| line.strip_suffix("() -> Result<()> {")) {
        assert!(DELIVERY.contains(name), "docs/delivery.md does not say what `{name}` shows");
    }
    Ok(())
}

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
