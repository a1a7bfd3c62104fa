//! What a virtual machine boots into: test programs with the libraries that they need, the kernel's
//! network modules, busybox, and a script that runs one program after the other.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::Test;
use super::fetch::Fetched;
use crate::process::{find, program};
use crate::test::programs::TestProgram;

/// Linked statically: it needs nothing of the machine that it comes from.
const BUSYBOX: &str = "/bin/busybox";

/// The `sluice` that is built together with the tests that run it.
const AGENT: &str = "sluice-under-test";

/// What the script and the tests call by name and busybox has.
const APPLETS: &[&str] =
    &["mkdir", "modprobe", "mount", "nsenter", "poweroff", "sh", "sysctl", "timeout", "uname"];

/// What the tests call by name and busybox has not, or less of.
const TOOLS: &[&str] = &["ip", "nft", "tc"];

/// Folders and files of modules that the tests may need: the network's, and what it needs itself.
const MODULES: &[&str] = &[
    "kernel/net",
    "kernel/lib",
    "kernel/crypto",
    "kernel/drivers/net/veth",
    "kernel/drivers/net/tun",
];

/// Seconds that a test program gets; emulation is slow.
const PATIENCE: u32 = 1200;

/// Random packets that a test makes; it would be ten times as many.
const PACKETS: u32 = 2_000;

/// Marks the script's own lines among those of the tests.
pub(super) const MARK: &str = "@@";

/// Makes the image in `scratch`.
///
/// # Errors
/// Also where a test program was not built.
pub(super) fn make(
    kernel: &Fetched,
    tests: &[Test],
    built: &[TestProgram],
    scratch: &Path,
) -> anyhow::Result<PathBuf> {
    let root = scratch.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    for folder in ["bin", "dev", "etc", "lib", "proc", "run", "sbin", "sys", "tests", "tmp"] {
        make_folder(&root.join(folder))?;
    }
    copy_busybox(&root)?;
    let mut programs = copy_tests(tests, built, &root)?;
    for tool in TOOLS {
        let found = find(tool).with_context(|| format!("{tool} is missing"))?;
        copy(&found, &root.join("bin").join(tool))?;
        programs.push(found);
    }
    for library in libraries(&programs)? {
        copy(&library, &within(&root, &library))?;
    }
    copy_modules(&kernel.modules, &root)?;
    let init = root.join("init");
    fs::write(&init, script(tests)).with_context(|| init.display().to_string())?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).context("init")?;
    let image = scratch.join("image.cpio");
    program("sh")
        .args(["-c", "find . -mindepth 1 | cpio --quiet -o -H newc > \"$0\""])
        .arg(&image)
        .directory(&root)
        .run()?;
    Ok(image)
}

fn copy_busybox(root: &Path) -> anyhow::Result<()> {
    copy(Path::new(BUSYBOX), &root.join("bin/busybox"))?;
    for applet in APPLETS {
        let place = root.join("bin").join(applet);
        symlink("busybox", &place).with_context(|| place.display().to_string())?;
    }
    // The kernel calls it by this path when it needs a module.
    symlink("../bin/busybox", root.join("sbin/modprobe")).context("sbin/modprobe")
}

/// Copies the test programs, and the agent to the place where they look for it; what was copied.
fn copy_tests(tests: &[Test], built: &[TestProgram], root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut copied = Vec::new();
    for test in tests {
        let Some(found) = built.iter().find(|built| built.name() == test.program) else {
            bail!("there is no test program {}", test.program);
        };
        strip(found.file(), &root.join("tests").join(test.program), &mut copied)?;
    }
    // Cargo builds programs beside the folder of the tests, and tells those the whole path.
    let agent = built.first().and_then(|test| Some(test.file().parent()?.parent()?.join(AGENT)));
    let agent = agent.with_context(|| format!("{AGENT} was not built"))?;
    strip(&agent, &within(root, &agent), &mut copied)?;
    Ok(copied)
}

/// Copies a program without its debug information, which is nine tenths of it.
fn strip(from: &Path, to: &Path, copied: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    make_folder(to.parent().unwrap_or(to))?;
    program("llvm-strip").arg("-o").arg(to).arg(from).output()?;
    copied.push(to.to_owned());
    Ok(())
}

/// What runs first, and alone, in the virtual machine.
fn script(tests: &[Test]) -> String {
    let mut script = format!(
        "#!/bin/sh
export PATH=/bin HOME=/ RUST_BACKTRACE=0 SLUICE_PACKETS={PACKETS}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns
modprobe tun
ulimit -l unlimited
echo \"{MARK} kernel $(uname -r)\"
"
    );
    for Test { program, without } in tests {
        let skips: String = without.iter().map(|name| format!(" --skip {name}")).collect();
        // One thread: tests that wait for each other's packets have one slow machine.
        _ = write!(
            script,
            "echo '{MARK} begin {program}'
timeout {PATIENCE} /tests/{program} --test-threads=1{skips} 2>&1
echo \"{MARK} end {program} $?\"
"
        );
    }
    script + "poweroff -f\n"
}

/// The shared libraries of programs, the loader included.
fn libraries(programs: &[PathBuf]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for path in programs {
        let listed = program("ldd").arg(path).output()?;
        let words = listed.split_whitespace().filter(|word| word.starts_with('/'));
        libraries.extend(words.map(PathBuf::from));
    }
    Ok(libraries)
}

/// Copies the modules and has them indexed.
fn copy_modules(modules: &Path, root: &Path) -> anyhow::Result<()> {
    let version = modules.file_name().context("modules are in a folder of their version")?;
    let to = root.join("lib/modules").join(version);
    make_folder(&to)?;
    for entry in fs::read_dir(modules).with_context(|| modules.display().to_string())? {
        let path = entry?.path();
        if path.is_file() {
            copy(&path, &to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    let mut copied = Vec::new();
    copy_wanted(modules, modules, &to, &mut copied)?;
    let compressed: Vec<_> =
        copied.into_iter().filter(|path| path.extension().is_some_and(|e| e == "xz")).collect();
    if !compressed.is_empty() {
        // busybox does not read them all.
        program("xz").arg("--decompress").args(compressed).output()?;
    }
    program("depmod").arg("-b").arg(root).arg(version).run()
}

/// Copies what is in [`MODULES`] of the folder `from`, which is `modules` or below it.
fn copy_wanted(
    modules: &Path,
    from: &Path,
    to: &Path,
    copied: &mut Vec<PathBuf>,
) -> anyhow::Result<()> {
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        let inner = path.strip_prefix(modules).context("below the modules")?;
        if path.is_dir() {
            copy_wanted(modules, &path, to, copied)?;
        } else if MODULES.iter().any(|wanted| inner.to_string_lossy().starts_with(wanted)) {
            let place = to.join(inner);
            copy(&path, &place)?;
            copied.push(place);
        }
    }
    Ok(())
}

/// The place of one of this machine's files below another root.
fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(())
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| path.display().to_string())
}
