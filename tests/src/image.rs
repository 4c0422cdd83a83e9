//! The image of the consumer and the controller, from the repository's own Dockerfile.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cache, process};

/// An image in a docker archive.
#[derive(Debug, Clone)]
pub struct Image {
    archive: PathBuf,
}

const DOCKERFILE: &str = include_str!("../../Dockerfile");

/// How many images to keep in the cache: the one in use, and those of another profile or branch.
const KEPT: usize = 4;

impl Image {
    /// The name by which pods ask for it.
    pub const NAME: &str = "analytics-pipeline:dev";

    /// Builds the image from the binaries beside the running executable. The same binaries give the same image from
    /// the cache, at once.
    ///
    /// # Errors
    /// When the binaries have not been built, or the image builder fails.
    pub async fn build() -> Result<Self> {
        let binaries = [cache::consumer_binary()?, cache::controller_binary()?];
        let base = cache::part("base_image")?.join("base.tar");
        let folder = cache::folder()?.join("images");
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join(".lock"))?;
        lock.lock()?;
        let archive = folder.join(format!("{}.tar", fingerprint(&binaries, &base)?));
        if !archive.is_file() {
            make(&binaries, &base, &archive).await?;
            forget_old(&folder)?;
        }
        Ok(Self { archive })
    }

    /// The docker archive, for [`crate::Cluster::load_image`].
    #[must_use]
    pub fn archive(&self) -> &Path {
        &self.archive
    }
}

/// What the image depends on, as a name: the binaries, the base and the Dockerfile.
fn fingerprint(binaries: &[PathBuf], base: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(DOCKERFILE.as_bytes());
    hasher.update(base.as_os_str().as_encoded_bytes());
    for binary in binaries {
        let file = File::open(binary).with_context(|| format!("failed to open {}", binary.display()))?;
        hasher.update_reader(file)?;
    }
    Ok(hasher.finalize().to_hex()[..24].to_owned())
}

async fn make(binaries: &[PathBuf], base: &Path, archive: &Path) -> Result<()> {
    let work = tempfile::tempdir()?;
    let (context, store) = (work.path().join("context"), work.path().join("store"));
    fs::create_dir_all(context.join("prebuilt"))?;
    fs::write(context.join("Dockerfile"), DOCKERFILE)?;
    for binary in binaries {
        let name = binary.file_name().context("a binary has a name")?;
        let mut strip = Command::new("strip");
        strip.arg("--strip-debug").arg("-o").arg(context.join("prebuilt").join(name)).arg(binary);
        process::output(strip).await?;
    }
    let mut build = buildah(&store)?;
    build.args(["build", "--quiet", "--build-arg", "BINARIES=prebuilt", "--build-arg"]);
    build.arg(format!("BASE=docker-archive:{}", base.display())).args(["--tag", Image::NAME]).arg(&context);
    process::output(build).await?;
    let partial = archive.with_extension("partial");
    let mut push = buildah(&store)?;
    let target = format!("docker-archive:{}:docker.io/library/{}", partial.display(), Image::NAME);
    push.args(["push", "--quiet", Image::NAME, &target]);
    process::output(push).await?;
    fs::rename(partial, archive).context("failed to put the image into the cache")
}

/// The builder without an engine or a service: plain copies of folders in a store of its own.
fn buildah(store: &Path) -> Result<Command> {
    let mut command = Command::new(cache::program("buildah")?);
    command.env("BUILDAH_ISOLATION", "chroot");
    command
        .arg("--root")
        .arg(store)
        .arg("--runroot")
        .arg(store.join("run"))
        .args(["--storage-driver", "vfs"]);
    Ok(command)
}

fn forget_old(folder: &Path) -> Result<()> {
    let mut images = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            images.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    images.sort();
    let surplus = images.len().saturating_sub(KEPT);
    images
        .iter()
        .take(surplus)
        .try_for_each(|(_, path)| fs::remove_file(path))
        .context("failed to remove an old image")
}
