//! What an end-to-end run asks of a node: what sluice has left there, and its network configurations.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cli::agent::{DEFAULT_BPFFS, DEFAULT_STATE_DIR};
use crate::datapath::attach;
use crate::endpoint::links::Links;

#[derive(Debug, Args)]
pub(super) struct NetworksArguments {
    /// Directory of CNI configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct RemainsArguments {
    /// Directory for pins that the agent had
    #[arg(long, value_name = "DIR", env = "SLUICE_BPFFS", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// State directory that the agent had
    #[arg(long, value_name = "DIR", env = "SLUICE_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    #[command(flatten)]
    networks: NetworksArguments,
    /// Directory of CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
}

/// A file in the directory of network configurations, whatever it contains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its bytes; those that are no UTF-8 are replaced.
    pub text: String,
    /// Type and permissions, as `stat` gives them.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The network configurations of this node, by the files' names.
pub(super) fn networks(places: &NetworksArguments) -> anyhow::Result<BTreeMap<String, Network>> {
    let mut found = BTreeMap::new();
    for name in names_in(&places.cni_conf_dir)? {
        let path = places.cni_conf_dir.join(&name);
        let metadata = fs::metadata(&path).with_context(|| path.display().to_string())?;
        // Runtimes read no directories.
        if metadata.is_dir() {
            continue;
        }
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
        found.insert(name, Network { text, mode, uid, gid });
    }
    Ok(found)
}

/// True for what the CNI plugin's installation has made or changed.
fn is_ours(name: &str, network: &Network) -> bool {
    name.contains("sluice") || network.text.contains("sluice")
}

/// Everything of sluice that this node still has, in words.
pub(super) fn remains(places: &RemainsArguments) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for (what, directory) in [("pins", &places.bpffs), ("notes", &places.state_dir)] {
        for name in names_in(directory)? {
            found.push(format!("{what}: {}", directory.join(name).display()));
        }
    }
    for name in names_in(&places.cni_bin_dir)?.iter().filter(|name| name.contains("sluice")) {
        found.push(format!("CNI plugin: {}", places.cni_bin_dir.join(name).display()));
    }
    for (name, network) in networks(&places.networks)? {
        if is_ours(&name, &network) {
            let path = places.networks.cni_conf_dir.join(name);
            found.push(format!("CNI configuration: {}", path.display()));
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    found.extend(runtime.block_on(programs())?);
    Ok(found)
}

/// Our programs on the interfaces of this network namespace: on tcx hooks, and as clsact filters.
async fn programs() -> anyhow::Result<Vec<String>> {
    let links = Links::open()?;
    let mut found = Vec::new();
    for interface in &nix::net::if_::if_nameindex().context("cannot list the interfaces")? {
        let (name, index) = (interface.name().to_string_lossy(), interface.index());
        let asked = on_interface(&links, index).await;
        // One that went away meanwhile has none.
        if asked.is_err() && nix::net::if_::if_nametoindex(interface.name()).is_err() {
            continue;
        }
        let asked = asked.with_context(|| format!("cannot ask for programs on {name}"))?;
        found.extend(asked.into_iter().map(|program| format!("program on {name}: {program}")));
    }
    Ok(found)
}

async fn on_interface(links: &Links, index: u32) -> anyhow::Result<Vec<String>> {
    let mut found = attach::own_tcx(index)?;
    let filters = links.filters(index).await?.into_iter().map(|(_, name)| name);
    let ours = filters.filter(|name| attach::is_ours(name));
    found.extend(ours.map(|name| format!("{name} (clsact)")));
    Ok(found)
}

/// Sorted; none where there is no such directory.
fn names_in(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| directory.display().to_string())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_ours_among_network_configurations_is_found_and_directories_are_passed_over() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("multus.d")).expect("made");
        for (name, text) in [
            ("10-a.conf", "{}"),
            ("10-a.conf.sluice-saved", "{}"),
            (".20-b.conflist.sluice-new", ""),
            ("20-b.conflist", "{\"plugins\":[{\"type\":\"sluice-cni\"}]}"),
        ] {
            fs::write(directory.path().join(name), text).expect("written");
        }
        let places = NetworksArguments { cni_conf_dir: directory.path().into() };
        let found = networks(&places).expect("listed");
        assert_eq!(found.len(), 4, "{found:?}");
        let ours = found.iter().filter(|(name, network)| is_ours(name, network));
        let ours: Vec<&str> = ours.map(|(name, _)| name.as_str()).collect();
        assert_eq!(ours, [".20-b.conflist.sluice-new", "10-a.conf.sluice-saved", "20-b.conflist"]);
    }
}
