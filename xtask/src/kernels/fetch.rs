//! Kernels from the Debian mirror that this machine's apt uses, checked with Debian's keys by apt, and
//! kept in the user's cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::process::{Program, program};

/// Debian's own keys, which the package of this name installs.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Depends on the newest kernel of a release for clouds: those have the drivers that a virtual machine
/// needs, and are small.
const LATEST: &str = "linux-image-cloud-amd64";

/// A kernel on this machine.
pub(super) struct Fetched {
    /// What qemu boots.
    pub(super) image: PathBuf,
    /// The folder of its modules, named after its version.
    pub(super) modules: PathBuf,
}

/// The kernel of a Debian release; what was fetched once is taken again.
///
/// # Errors
/// It is not to be had.
pub(super) fn kernel(release: &str) -> anyhow::Result<Fetched> {
    let home = env::var_os("HOME").context("HOME is not set")?;
    let cache = Path::new(&home).join(".cache/sluice/kernels").join(release);
    let whole = cache.join("kernel");
    if !whole.exists() {
        // What was broken off before is no base to go on from.
        let staged = cache.join("staged");
        if staged.exists() {
            fs::remove_dir_all(&staged).with_context(|| staged.display().to_string())?;
        }
        download(release, &cache, &staged)?;
        fs::rename(&staged, &whole).with_context(|| whole.display().to_string())?;
    }
    find(&whole)
}

/// Downloads a release's kernel and unpacks it into `folder`.
fn download(release: &str, cache: &Path, folder: &Path) -> anyhow::Result<()> {
    let apt = Apt::new(release, cache)?;
    apt.get(&["update"]).run()?;
    let depends = apt.run("apt-cache", &["depends", LATEST]).output()?;
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let name = names.next().with_context(|| format!("{LATEST} of {release} depends on nothing"))?;
    let packages = cache.join("packages");
    fs::create_dir_all(&packages).with_context(|| packages.display().to_string())?;
    apt.get(&["download", name]).directory(&packages).run()?;
    for entry in fs::read_dir(&packages).with_context(|| packages.display().to_string())? {
        let package = entry?.path();
        program("dpkg-deb").arg("-x").arg(&package).arg(folder).run()?;
        fs::remove_file(&package).with_context(|| package.display().to_string())?;
    }
    Ok(())
}

/// apt with sources, lists and a cache of its own: the machine's are left alone, and no root is
/// needed.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(release: &str, cache: &Path) -> anyhow::Result<Self> {
        let folder = cache.join("apt");
        for name in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        let sources = folder.join("sources.list");
        let line = format!("deb [signed-by={KEYRING}] {} {release} main\n", mirror()?);
        fs::write(&sources, line).with_context(|| sources.display().to_string())?;
        let folder = folder.display();
        let settings = [
            format!("Dir::Etc::SourceList={}", sources.display()),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={folder}/lists"),
            // What is installed here does not matter there.
            "Dir::State::Status=/dev/null".to_owned(),
            format!("Dir::Cache={folder}/cache"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
        ];
        let options = settings.into_iter().flat_map(|setting| ["-o".to_owned(), setting]);
        Ok(Self { options: options.collect() })
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Program {
        program(name).args(&self.options).args(arguments)
    }

    fn get(&self, arguments: &[&str]) -> Program {
        self.run("apt-get", arguments)
    }
}

/// The mirror of Debian that this machine's apt has in its sources.
fn mirror() -> anyhow::Result<String> {
    ensure!(
        Path::new(KEYRING).exists(),
        "{KEYRING} is missing: as root, `apt-get install debian-archive-keyring`"
    );
    // Label: that of the security updates' archive, which has no whole releases, is another.
    let format = "$(ORIGIN) $(LABEL) $(REPO_URI)";
    let targets = program("apt-get")
        .args(["indextargets", "--format", format, "Created-By: Packages"])
        .output()?;
    let mut mirrors = targets.lines().filter_map(|line| line.strip_prefix("Debian Debian "));
    match mirrors.next() {
        Some(mirror) => Ok(mirror.to_owned()),
        None => bail!(
            "apt has no mirror of Debian among its sources: add one, and run `apt-get update`"
        ),
    }
}

fn find(whole: &Path) -> anyhow::Result<Fetched> {
    // Where `/lib` is a link to `/usr/lib`, packages come with the latter.
    let places = [whole.join("lib/modules"), whole.join("usr/lib/modules")];
    let modules = places.iter().find(|place| place.is_dir()).context("it has no modules")?;
    let modules = only(modules)?;
    let version = modules.file_name().unwrap_or_default().to_string_lossy();
    let image = whole.join(format!("boot/vmlinuz-{version}"));
    ensure!(image.is_file(), "{} is missing", image.display());
    Ok(Fetched { image, modules })
}

/// What alone is in a folder.
fn only(folder: &Path) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
    match &entries[..] {
        [entry] => Ok(entry.path()),
        _ => bail!("{} has {} entries, not one", folder.display(), entries.len()),
    }
}
