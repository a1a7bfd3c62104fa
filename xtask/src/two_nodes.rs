//! A cluster of two real nodes on this machine, for the end-to-end run: brought up by the scripts of a
//! folder that `SLUICE_CLUSTER` names, from a built copy in the user's cache.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::process::{Program, find, go, program};
use crate::{e2e, image, machine};

/// Names the folder with the scripts.
const FOLDER: &str = "SLUICE_CLUSTER";
/// Names the kinds of clusters to run on: CNI plugin and mode of kube-proxy, separated by spaces.
const KINDS: &str = "SLUICE_CLUSTER_KINDS";
/// Names an archive with the image: otherwise one is built as tests are, sooner than the released one.
const ARCHIVE: &str = "SLUICE_IMAGE_ARCHIVE";
/// Where nobody says otherwise.
const DEFAULT_KINDS: &str = "ptp+nftables";
/// What the scripts build with.
const TOOLS: &[&str] = &["python3", "gcc", "openssl", "ip", "nft"];
/// Both families.
const FAMILIES: &str = "46";
/// Nodes share the plugins of the folder, and look for them there. As other nodes, each gets its own, in
/// the usual place, which is a file system of the node's from then on.
const OWN_PLUGINS: &str = ". ./lib.sh
for n in $NODES; do
  in_node $n sh -ec \"mount -t tmpfs tmpfs /opt && mkdir -p /opt/cni/bin &&
    cp -aL '$DEB/usr/lib/cni/.' /opt/cni/bin/ && mount --bind /opt/cni/bin '$DEB/usr/lib/cni'\" || exit 1
done";

/// Runs the end-to-end run on each kind of cluster that is asked for; says in a line why not, where no
/// folder is named.
///
/// # Errors
/// The cluster cannot be had, or a run fails; on the other kinds it runs nevertheless.
pub(crate) fn run() -> anyhow::Result<()> {
    let Some(folder) = env::var_os(FOLDER).map(PathBuf::from) else {
        println!(
            "the end-to-end run is skipped: set {FOLDER} to a folder with scripts that bring up a \
             cluster (up.sh, down.sh, load.sh), or run `cargo xtask e2e` on a cluster of your own"
        );
        return Ok(());
    };
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    machine::ready()?;
    let needs =
        |tool: &str| format!("the cluster of {FOLDER} needs {tool}, and there is none: install it");
    for tool in TOOLS {
        ensure!(find(tool).is_some(), "{}", needs(tool));
    }
    let go = go().with_context(|| needs("go"))?;
    // Ctrl-C reaches the program that runs right now; the cluster is taken down nevertheless.
    ctrlc::set_handler(|| {}).context("cannot handle Ctrl-C")?;
    let home = env::var_os("HOME").context("HOME is not set")?;
    let cache = Path::new(&home).join(".cache/sluice");
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    let _lock = lock(&cache.join("cluster.lock"))?;
    let cluster = Cluster { folder: cache.join("cluster"), go };
    cluster.build(&folder)?;
    let archive = match env::var_os(ARCHIVE).map(PathBuf::from) {
        Some(given) => given.canonicalize().with_context(|| given.display().to_string())?,
        None => image::for_tests()?,
    };
    let binary = e2e::build()?;
    let kinds = env::var(KINDS).unwrap_or_else(|_| DEFAULT_KINDS.into());
    let mut failed = Vec::new();
    for kind in kinds.split_whitespace() {
        println!("--- {kind}");
        if let Err(error) = cluster.run(kind, &archive, &binary) {
            println!("error: {error:#}");
            failed.push(kind);
        }
    }
    ensure!(failed.is_empty(), "the end-to-end run failed on {}", failed.join(", "));
    Ok(())
}

/// Only one such cluster fits on a machine.
fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            println!("another run has the cluster ({}): waiting for it", path.display());
            file.lock().with_context(|| path.display().to_string())?;
        }
        Err(TryLockError::Error(error)) => bail!("{}: {error}", path.display()),
    }
    Ok(file)
}

/// The scripts, in the user's cache, with what they have built beside them.
struct Cluster {
    folder: PathBuf,
    go: PathBuf,
}

impl Cluster {
    /// Brings the scripts to what `original` has, and builds what is missing.
    fn build(&self, original: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| self.folder.display().to_string())?;
        let wanted = files(original)?;
        let there = files(&self.folder)?;
        let versions = |files: &BTreeMap<String, Vec<u8>>| files.get("versions.sh").cloned();
        let rebuild = !there.is_empty() && versions(&there) != versions(&wanted);
        for (name, bytes) in &wanted {
            if there.get(name) != Some(bytes) {
                let (from, to) = (original.join(name), self.folder.join(name));
                // The copy of a file that nobody may write cannot be written over.
                if to.exists() {
                    fs::remove_file(&to).with_context(|| to.display().to_string())?;
                }
                fs::copy(&from, &to).with_context(|| from.display().to_string())?;
            }
        }
        println!("the cluster's programs are built once, which takes minutes:");
        let build = self.script("build.sh");
        if rebuild { build.env("FORCE", "1") } else { build }.run()
    }

    fn script(&self, name: &str) -> Program {
        let path = env::var_os("PATH").unwrap_or_default();
        let places = env::split_paths(&path).chain(self.go.parent().map(Path::to_owned));
        let path = env::join_paths(places).unwrap_or(path);
        program(self.folder.join(name)).env("PATH", path).directory(&self.folder)
    }

    /// One run on a cluster of a kind, which is taken down whatever happens.
    fn run(&self, kind: &str, archive: &Path, binary: &Path) -> anyhow::Result<()> {
        let (cni, proxy) =
            kind.split_once('+').with_context(|| format!("{kind}: must be CNI+PROXY_MODE"))?;
        // What a run that was broken off has left.
        self.script("down.sh").by_root().run()?;
        let up = self.script("up.sh").env("CNI", cni).env("PROXY_MODE", proxy);
        let up = up.env("IPFAMILY", FAMILIES).by_root().run();
        let ran = up.and_then(|()| {
            let own = program("bash").directory(&self.folder).args(["-c", OWN_PLUGINS]);
            own.by_root().run()?;
            self.script("load.sh").arg(archive).by_root().run()?;
            self.inside(binary).by_root().run()
        });
        // Both are worth knowing.
        let down = self.script("down.sh").env("KEEP_LOGS", "1").by_root().run();
        ran.and(down)
    }

    /// The run itself, in the network of the control plane.
    fn inside(&self, binary: &Path) -> Program {
        let enter = ". ./lib.sh; in_cp \"$@\"";
        program("bash")
            .directory(&self.folder)
            .args(["-c", enter, "in_cp"])
            .arg(binary)
            .args(["--kubeconfig", "state/admin.kubeconfig"])
    }
}

/// The files of a folder, without those below it.
fn files(folder: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            files.insert(name.to_string_lossy().into_owned(), bytes);
        }
    }
    Ok(files)
}
