//! Things of which the machine has only one, such as a port's number: taken by lock, freed with the process.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// The same folder for every user and every `TMPDIR`, unlike [`crate::run::root`].
const FOLDER: &str = "/run/lock/analytics-testbed";

/// Takes `name` for as long as the returned file lives; `None` when another test bed has it.
pub(crate) fn take(name: &str) -> Result<Option<File>> {
    let folder = Path::new(FOLDER);
    if !folder.is_dir() {
        fs::create_dir_all(folder).with_context(|| format!("failed to create {FOLDER}"))?;
        // Like /tmp: other users' test beds put their locks here too.
        fs::set_permissions(folder, Permissions::from_mode(0o1777))?;
    }
    let path = folder.join(name);
    // Another user's file cannot be written, but it can be locked.
    let file = File::open(&path).or_else(|_| File::create(&path));
    let file = file.with_context(|| format!("failed to open the lock {}", path.display()))?;
    Ok(file.try_lock().is_ok().then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_stays_so_until_it_is_dropped() {
        let name = format!("test-{}", std::process::id());
        let first = take(&name).unwrap();
        assert!(first.is_some());
        assert!(take(&name).unwrap().is_none());
        drop(first);
        assert!(take(&name).unwrap().is_some());
        fs::remove_file(Path::new(FOLDER).join(name)).unwrap();
    }
}
