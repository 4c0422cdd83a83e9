//! Folders of running test beds, and clearing up after those that died.
//!
//! Every handle owns one folder under `analytics-testbed-<user id>` in the temporary folder and holds a lock on a
//! file in it. The kernel drops the lock with the process, so a folder whose lock can be taken belongs to nobody
//! and is removed by whoever starts next.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::node;

/// The folder of one running server, removed when dropped.
#[derive(Debug)]
pub struct Run {
    path: PathBuf,
    _lock: File,
}

/// Where all test beds of this user live.
#[must_use]
pub fn root() -> PathBuf {
    std::env::temp_dir().join(format!("analytics-testbed-{}", rustix::process::getuid().as_raw()))
}

impl Run {
    /// Makes a folder whose name starts with `kind`, after removing what dead runs have left.
    ///
    /// # Errors
    /// When the temporary folder cannot be written.
    pub fn new(kind: &str) -> Result<Self> {
        // Without the lock on the root, the folder could be taken for a dead one before its own lock is held.
        let _creating = lock_root()?;
        sweep_locked();
        let path = tempfile::Builder::new().prefix(&format!("{kind}-")).tempdir_in(root())?.keep();
        // PostgreSQL runs as another user and must be able to reach its folder in here.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let lock = File::create(path.join(".lock"))?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes what dead runs have left on disk and in the cgroup hierarchy.
///
/// # Errors
/// When the temporary folder cannot be written.
pub fn sweep() -> Result<()> {
    let _creating = lock_root()?;
    sweep_locked();
    Ok(())
}

fn lock_root() -> Result<File> {
    let root = root();
    fs::create_dir_all(&root).with_context(|| format!("failed to create {}", root.display()))?;
    let lock = File::create(root.join(".lock"))?;
    lock.lock()?;
    Ok(lock)
}

fn sweep_locked() {
    let Ok(entries) = fs::read_dir(root()) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Ok(lock) = File::open(path.join(".lock")) else { continue };
        if lock.try_lock().is_ok() {
            tracing::info!(path = %path.display(), "Removing what a dead test bed has left");
            remove(&path);
        }
    }
}

fn remove(path: &Path) {
    node::remove_cgroups(path);
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "A test bed's folder could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_folder_survives_a_sweep_and_a_dead_one_does_not() {
        let live = Run::new("live").unwrap();
        let dead = root().join("dead-for-a-test");
        fs::create_dir_all(&dead).unwrap();
        File::create(dead.join(".lock")).unwrap();
        sweep().unwrap();
        assert!(live.path().exists());
        assert!(!dead.exists());
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }
}
