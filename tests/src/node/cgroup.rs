//! The node's own corner of the cgroup hierarchy, of either version.
//!
//! The node sees these folders as the root of each hierarchy, so that what its containers leave can be found again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// The name of the cgroup of the node whose folder is `folder`.
pub(super) fn name(folder: &Path) -> String {
    let last = folder.file_name().unwrap_or_default().to_string_lossy();
    format!("analytics-testbed-{last}")
}

/// Creates the node's cgroup in every hierarchy.
pub(super) fn create(folder: &Path) -> Result<()> {
    for hierarchy in hierarchies() {
        let own = hierarchy.join(name(folder));
        fs::create_dir(&own).with_context(|| format!("failed to create the cgroup {}", own.display()))?;
        // Version 1: a new cpuset is empty and takes no process before it has processors and memory.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(hierarchy.join(file)) {
                let _ = fs::write(own.join(file), value.trim());
            }
        }
        // Version 2: a controller must be handed down. One that the machine lacks is no reason to stop.
        for controller in ["+cpuset", "+cpu", "+io", "+memory", "+pids"] {
            let _ = fs::write(hierarchy.join("cgroup.subtree_control"), controller);
        }
    }
    Ok(())
}

/// Version 2: a cgroup with processes of its own cannot hand controllers down, so the node's first processes, `outer`
/// and its children, must leave the root for a leaf.
pub(super) fn leave_root(folder: &Path, outer: u32) -> Result<()> {
    let own = PathBuf::from(ROOT).join(name(folder));
    if !own.is_dir() {
        return Ok(());
    }
    let leaf = own.join("init");
    fs::create_dir(&leaf)?;
    let processes = fs::read_to_string(own.join("cgroup.procs"))?;
    for process in processes.lines().chain([outer.to_string().as_str()]) {
        fs::write(leaf.join("cgroup.procs"), process)
            .with_context(|| format!("failed to move process {process} into {}", leaf.display()))?;
    }
    Ok(())
}

/// Removes the cgroups of the node, waiting until their last processes are gone.
pub(super) fn empty(folder: &Path, limit: Duration) {
    let deadline = Instant::now() + limit;
    while !remove(folder) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes the cgroups of the node, if it had any. Returns whether none is left.
pub(crate) fn remove(folder: &Path) -> bool {
    let own: Vec<_> =
        hierarchies().map(|hierarchy| hierarchy.join(name(folder))).filter(|own| own.is_dir()).collect();
    own.iter().all(|own| remove_tree(own))
}

/// Only the folders of a cgroup can be removed, not its files, and only from the leaves up.
fn remove_tree(cgroup: &Path) -> bool {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    for child in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&child.path());
    }
    fs::remove_dir(cgroup).is_ok()
}

/// The mount points of the hierarchies: one each for the controllers of version 1, or the one of version 2.
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let root = PathBuf::from(ROOT);
    let unified = root.join("cgroup.controllers").is_file();
    let single = unified.then(|| root.clone());
    let several = (!unified).then(|| fs::read_dir(root).into_iter().flatten().flatten());
    let several =
        several.into_iter().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    single.into_iter().chain(several.map(|entry| entry.path()))
}
