//! kube-apiserver and etcd for the tests: from `KUBEBUILDER_ASSETS`, or built once with Go and kept in
//! the user's cache.
//!
//! `tests/apiserver/` holds a Go module for each, with all versions; what was built last is built
//! again only when one of those files has changed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::process::{self, program};
use crate::workspace;

/// Names the folder that holds the programs; the tests read it too.
pub(crate) const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Version of Kubernetes, as it is to say itself.
const VERSION: &str = "v1.34.4";

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
/// They could not be built.
pub(crate) fn assets() -> anyhow::Result<Option<PathBuf>> {
    if let Some(given) = env::var_os(ASSETS).map(PathBuf::from)
        && has_all(&given)
    {
        let whole = given.canonicalize().with_context(|| given.display().to_string())?;
        return Ok(Some(whole));
    }
    let home = env::var_os("HOME").context("HOME is not set")?;
    let cache = Path::new(&home).join(".cache/sluice/kubernetes");
    let wanted = sources()?;
    let note = cache.join("built-from");
    if has_all(&cache) && fs::read_to_string(&note).is_ok_and(|built| built == wanted) {
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
    // A build that is broken off leaves programs of two versions, and no note.
    if note.exists() {
        fs::remove_file(&note).with_context(|| note.display().to_string())?;
    }
    println!("kube-apiserver and etcd are built once, which takes minutes:");
    for built in PROGRAMS {
        build(&go, built, &cache)?;
    }
    fs::write(&note, wanted).with_context(|| note.display().to_string())?;
    Ok(Some(cache))
}

fn has_all(folder: &Path) -> bool {
    PROGRAMS.iter().all(|built| folder.join(built.program).is_file())
}

fn module(built: &Built) -> PathBuf {
    workspace::root().join("tests/apiserver").join(built.module)
}

/// What the programs are built from: their modules' files, and what they are told.
fn sources() -> anyhow::Result<String> {
    let mut text = format!("{VERSION}\n");
    for built in PROGRAMS {
        let path = module(built).join("go.mod");
        text += &fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    }
    Ok(text)
}

fn build(go: &Path, built: &Built, cache: &Path) -> anyhow::Result<()> {
    let minor = VERSION.split('.').nth(1).unwrap_or_default();
    let version = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {version}.gitVersion={VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor={minor}"
    );
    // Built beside its place, so that a build that was broken off leaves nothing half done there.
    let staged = cache.join(format!("{}.staged", built.program));
    program(go)
        .directory(&module(built))
        .env("GOWORK", "off")
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=mod -trimpath -buildvcs=false")
        .args(["build", "-ldflags", &flags, "-o"])
        .arg(&staged)
        .arg(built.package)
        .run()?;
    let place = cache.join(built.program);
    fs::rename(&staged, &place).with_context(|| place.display().to_string())
}
