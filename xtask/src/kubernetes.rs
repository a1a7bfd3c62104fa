//! kube-apiserver and etcd for the tests: from `KUBEBUILDER_ASSETS`, or built once with Go and kept in
//! the user's cache.
//!
//! `tests/apiserver/` holds a Go module for each, with all versions; what was built last is built
//! again only when one of those files has changed.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::process::{self, program};
use crate::workspace;

/// Names the folder that holds the programs; the tests read it too.
pub(crate) const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Version of Kubernetes, as it is to say itself.
const VERSION: &str = "v1.34.4";

/// What Go is told for both.
const FLAGS: &str = "-mod=mod -trimpath -buildvcs=false";

/// File in the cache that holds what its programs were built from.
const NOTE: &str = "built-from";

/// A program and the Go module that builds it.
struct Built {
    program: &'static str,
    /// Folder in `tests/apiserver/`.
    module: &'static str,
    package: &'static str,
}

const PROGRAMS: &[Built] = &[
    Built {
        program: "kube-apiserver",
        module: "kubernetes",
        package: "k8s.io/kubernetes/cmd/kube-apiserver",
    },
    Built { program: "etcd", module: "etcd", package: "go.etcd.io/etcd/server/v3" },
];

/// The folder with the programs, built where they are missing; none where they cannot be had, which
/// is said in one line.
///
/// # Errors
/// They could not be built, or the folder that is given lacks one.
pub(crate) fn assets() -> anyhow::Result<Option<PathBuf>> {
    if let Some(given) = given(env::var_os(ASSETS).map(PathBuf::from))? {
        return Ok(Some(given));
    }
    let home = env::var_os("HOME").context("HOME is not set")?;
    let cache = Path::new(&home).join(".cache/sluice/kubernetes");
    let wanted = sources()?;
    if is_current(&cache, &wanted) {
        return Ok(Some(cache));
    }
    let Some(go) = process::go() else {
        println!(
            "the tests against a real API server are skipped: install go (1.25 or newer), or set \
             {ASSETS} to a folder with kube-apiserver and etcd"
        );
        return Ok(None);
    };
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let _alone = lock(&cache)?;
    if !is_current(&cache, &wanted) {
        build_all(&go, &cache, &wanted)?;
    }
    Ok(Some(cache))
}

/// The folder that is given, if one is.
fn given(folder: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    let Some(folder) = folder else { return Ok(None) };
    let shown = folder.display().to_string();
    for Built { program, .. } in PROGRAMS {
        ensure!(
            folder.join(program).is_file(),
            "{ASSETS} is {shown}, where there is no {program}: put it there, or unset {ASSETS}"
        );
    }
    folder.canonicalize().with_context(|| shown).map(Some)
}

/// Waits until nobody else builds there. The lock ends with the file.
fn lock(cache: &Path) -> anyhow::Result<File> {
    let path = cache.join("lock");
    let shown = path.display().to_string();
    let file = File::create(&path).with_context(|| shown.clone())?;
    if file.try_lock().is_err() {
        println!("another process builds kube-apiserver and etcd; waiting for it");
        file.lock().with_context(|| shown)?;
    }
    Ok(file)
}

/// What is in the cache was built from these sources.
fn is_current(cache: &Path, wanted: &str) -> bool {
    has_all(cache) && fs::read_to_string(cache.join(NOTE)).is_ok_and(|built| built == wanted)
}

fn build_all(go: &Path, cache: &Path, wanted: &str) -> anyhow::Result<()> {
    let note = cache.join(NOTE);
    // A build that is broken off leaves programs of two versions, and no note.
    if note.exists() {
        fs::remove_file(&note).with_context(|| note.display().to_string())?;
    }
    println!("kube-apiserver and etcd are built once, which takes minutes:");
    for built in PROGRAMS {
        build(go, built, cache)?;
    }
    fs::write(&note, wanted).with_context(|| note.display().to_string())
}

fn has_all(folder: &Path) -> bool {
    PROGRAMS.iter().all(|built| folder.join(built.program).is_file())
}

fn module(built: &Built) -> PathBuf {
    workspace::root().join("tests/apiserver").join(built.module)
}

/// What the programs are built from, and how: the whole of their modules' files, and what the compiler
/// is told.
fn sources() -> anyhow::Result<String> {
    let mut text = format!("{FLAGS}\n{}\n", linker_flags());
    for built in PROGRAMS {
        text += &format!("{} {}\n", built.program, built.package);
        for file in ["go.mod", "go.sum"] {
            let path = module(built).join(file);
            text += &fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(text)
}

/// The version that the programs are to say.
fn linker_flags() -> String {
    let minor = VERSION.split('.').nth(1).unwrap_or_default();
    let version = "k8s.io/component-base/version";
    format!(
        "-s -w -X {version}.gitVersion={VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
    )
}

fn build(go: &Path, built: &Built, cache: &Path) -> anyhow::Result<()> {
    // Built beside its place, so that a build that was broken off leaves nothing half done there.
    let staged = cache.join(format!("{}.staged", built.program));
    program(go)
        .directory(&module(built))
        .env("GOWORK", "off")
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", FLAGS)
        .args(["build", "-ldflags", &linker_flags(), "-o"])
        .arg(&staged)
        .arg(built.package)
        .run()?;
    let place = cache.join(built.program);
    fs::rename(&staged, &place).with_context(|| place.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_given_and_lacks_a_program_is_an_error_that_names_both() {
        let folder = tempfile::tempdir().expect("a directory");
        assert!(given(None).expect("nothing is given").is_none());
        fs::write(folder.path().join("kube-apiserver"), "").expect("written");
        let error = given(Some(folder.path().into())).expect_err("there is no etcd").to_string();
        assert!(error.contains("no etcd") && error.contains(ASSETS), "{error}");
        fs::write(folder.path().join("etcd"), "").expect("written");
        assert!(given(Some(folder.path().into())).expect("both are there").is_some());
    }

    #[test]
    fn programs_that_were_built_from_other_sums_or_flags_are_not_current() {
        let sources = sources().expect("the modules' files");
        assert!(sources.contains(FLAGS) && sources.contains(&linker_flags()));
        // A line of a go.sum.
        assert!(sources.contains("/go.mod h1:"));
        let cache = tempfile::tempdir().expect("a directory");
        for file in ["kube-apiserver", "etcd"] {
            fs::write(cache.path().join(file), "").expect("written");
        }
        assert!(!is_current(cache.path(), &sources));
        fs::write(cache.path().join(NOTE), &sources).expect("written");
        assert!(is_current(cache.path(), &sources));
        assert!(!is_current(cache.path(), &sources.replace("h1:", "h2:")));
    }

    #[test]
    fn what_was_built_is_current_and_what_was_broken_off_is_not() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a directory");
        let compiler = |text: &str| {
            let path = folder.path().join("go");
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
            path
        };
        // Like Go: what `-o` names is made; `$4` is the `-o` of `build -ldflags FLAGS -o FILE`.
        let good = compiler("#!/bin/sh\n[ \"$4\" = -o ] && echo \"$3\" > \"$5\"\n");
        build_all(&good, folder.path(), "sources").expect("built");
        assert!(is_current(folder.path(), "sources"));
        let built = fs::read_to_string(folder.path().join("etcd")).expect("built");
        assert_eq!(built.trim(), linker_flags());
        let bad = compiler("#!/bin/sh\nexit 1\n");
        build_all(&bad, folder.path(), "other sources").expect_err("it fails");
        for sources in ["sources", "other sources"] {
            assert!(!is_current(folder.path(), sources));
        }
    }

    #[test]
    fn two_do_not_build_at_a_time() {
        let cache = tempfile::tempdir().expect("a directory");
        let first = lock(cache.path()).expect("locked");
        let second = File::open(cache.path().join("lock")).expect("opened");
        assert!(second.try_lock().is_err());
        drop(first);
        second.try_lock().expect("locked");
    }
}
