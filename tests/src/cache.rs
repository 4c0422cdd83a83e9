//! Where the programs are that `tests/setup/setup.sh` has prepared, and the project's own binaries.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const VERSIONS: &str = include_str!("../setup/versions.env");

/// The folder in the cache of a part that is named in `tests/setup/versions.env`.
///
/// # Errors
/// When the part is unknown or has not been prepared.
pub fn part(name: &str) -> Result<PathBuf> {
    let path = folder()?.join(format!("{name}-{}", version(name)?));
    if !path.is_dir() {
        bail!("{} is missing: run tests/setup/setup.sh", path.display());
    }
    Ok(path)
}

/// The cache of all clones: `${XDG_CACHE_HOME:-$HOME/.cache}/analytics-pipeline`.
///
/// # Errors
/// When neither variable is set.
pub fn folder() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("analytics-pipeline"))
}

/// The version of a part, as `tests/setup/versions.env` says.
///
/// # Errors
/// When it names no such part.
pub fn version(name: &str) -> Result<&'static str> {
    let version = VERSIONS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    version.with_context(|| format!("tests/setup/versions.env names no {name}"))
}

/// A program that a Debian package has installed.
///
/// # Errors
/// When it is nowhere in the usual folders.
pub fn program(name: &str) -> Result<PathBuf> {
    // A user's PATH may lack the sbin folders, where Debian keeps the network tools.
    let usual = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    usual
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed: run tests/setup/setup.sh debian"))
}

/// The consumer, from the folder of the running executable's profile (`target/<profile>`).
///
/// # Errors
/// When it has not been built.
pub fn consumer_binary() -> Result<PathBuf> {
    binary("analytics-consumer")
}

/// The controller, from the folder of the running executable's profile (`target/<profile>`).
///
/// # Errors
/// When it has not been built.
pub fn controller_binary() -> Result<PathBuf> {
    binary("analytics-controller")
}

/// The kubectl plugin, built with the same profile as the running test.
///
/// # Errors
/// When it was not built.
pub fn plugin_binary() -> Result<PathBuf> {
    binary("kubectl-apl")
}

fn binary(name: &str) -> Result<PathBuf> {
    // A test executable lives in target/<profile>/deps, a program in target/<profile>.
    let own = std::env::current_exe().context("failed to find the running executable")?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not beside {}: build the workspace with the same profile", own.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_whole() {
        assert!(version("kafka").unwrap().starts_with("4."));
        assert!(version("kube").is_err());
    }

    #[test]
    fn a_missing_part_says_how_to_get_it() {
        assert!(format!("{:#}", part("nothing").unwrap_err()).contains("versions.env"));
    }
}
