//! `cargo xtask image`: the container image, as an OCI archive, with no container engine.

mod binary;
mod oci;

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use lexopt::Arg;

use self::binary::{Architecture, Profile};
use crate::workspace;

pub(crate) const SUMMARY: &str = "build the container image; needs no container engine";
pub(crate) const HELP: &str = "
Usage: cargo xtask image [--arch ARCH]... [--binary ARCH=FILE]... [--output FILE] [--name NAME:TAG]

Builds `sluice` as a static binary for each architecture (this machine's where none is named) and
writes an OCI archive, which `ctr --namespace k8s.io images import FILE` and others take. The same
binaries make the same archive, byte for byte.
Leaves the binaries in `image/linux/ARCH/` of the target directory, where deploy/Dockerfile finds them.

Options:
  --arch ARCH        amd64 or arm64; repeatable
  --binary ARCH=FILE a static binary that was built before, instead of building one; repeatable
  --output FILE      the archive (otherwise `image/sluice.tar` of the target directory)
  --name NAME:TAG    what the image is to be called where it is imported";

/// What the image is called where nobody says otherwise; the chart's values say the same.
const NAME: &str = concat!("sluice.dev/sluice:", env!("CARGO_PKG_VERSION"));

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    let (mut binaries, mut output, mut name) = (BTreeMap::new(), None, NAME.to_owned());
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("arch") => {
                let architecture = Architecture::named(&arguments.value()?.to_string_lossy())?;
                binaries.entry(architecture).or_insert(None);
            }
            Arg::Long("binary") => {
                let value = arguments.value()?.to_string_lossy().into_owned();
                let (name, file) = value.split_once('=').context("--binary: must be ARCH=FILE")?;
                binaries.insert(Architecture::named(name)?, Some(PathBuf::from(file)));
            }
            Arg::Long("output") => output = Some(PathBuf::from(arguments.value()?)),
            Arg::Long("name") => name = arguments.value()?.to_string_lossy().into_owned(),
            other => return Err(other.unexpected().into()),
        }
    }
    if !name.rsplit_once(':').is_some_and(|(_, tag)| !tag.is_empty() && !tag.contains('/')) {
        bail!("--name {name}: must be NAME:TAG, such as {NAME}");
    }
    if binaries.is_empty() {
        binaries.insert(Architecture::of_this_machine()?, None);
    }
    let folder = workspace::target_dir()?.join("image");
    let output = output.map(std::path::absolute).transpose()?;
    let mut images = Vec::new();
    for (architecture, built) in binaries {
        let built = match built {
            Some(built) => built,
            None => binary::build(architecture, Profile::Release)?,
        };
        let image = read(architecture, &built)?;
        lay_out(&image.binary, &folder.join("linux").join(architecture.name()))?;
        images.push(image);
    }
    write(&images, &output.unwrap_or_else(|| folder.join("sluice.tar")), &name)
}

/// Builds the image for this machine under its usual name, as tests are built; the archive.
pub(crate) fn for_tests() -> anyhow::Result<PathBuf> {
    let architecture = Architecture::of_this_machine()?;
    let image = read(architecture, &binary::build(architecture, Profile::Dev)?)?;
    let output = workspace::target_dir()?.join("sluice-dev.tar");
    write(&[image], &output, NAME)?;
    Ok(output)
}

fn read(architecture: Architecture, built: &Path) -> anyhow::Result<oci::Image> {
    let binary = fs::read(built).with_context(|| built.display().to_string())?;
    Ok(oci::Image { architecture, binary })
}

/// Makes an archive.
fn write(images: &[oci::Image], output: &Path, name: &str) -> anyhow::Result<()> {
    let file = File::create(output).with_context(|| output.display().to_string())?;
    let mut file = BufWriter::new(file);
    let digest = oci::write(&mut file, name, images)?;
    file.flush().with_context(|| output.display().to_string())?;
    println!("Wrote {name} ({digest}) to {}", output.display());
    Ok(())
}

/// Puts what an image contains into a folder.
fn lay_out(binary: &[u8], folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let (place, link) = (folder.join(oci::BINARY), folder.join(oci::CNI_PLUGIN));
    fs::write(&place, binary).with_context(|| place.display().to_string())?;
    let executable = Permissions::from_mode(0o755);
    fs::set_permissions(&place, executable).with_context(|| place.display().to_string())?;
    symlink(oci::BINARY, &link).with_context(|| link.display().to_string())
}
