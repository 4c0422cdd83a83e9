//! What is generated is up to date.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use testbed::process;

#[tokio::test]
async fn the_charts_copies_and_the_install_manifests_are_what_their_sources_say() -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/generate.sh");
    let mut command = Command::new(script);
    command.arg("--check");
    process::output(command).await.map(drop)
}
