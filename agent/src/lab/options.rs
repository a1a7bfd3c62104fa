//! What makes a lab, what it needs of the machine, and why there is none.

use std::path::{Path, PathBuf};

/// Why there is no lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Not a name for a lab.
    #[error(
        "{0:?} is no name for a lab: 1 to 32 lower-case letters, digits and dashes, no dash first"
    )]
    Name(String),
    /// The name is taken.
    #[error("a lab named {0} is up; take it down with `sluice lab down {0}`, or choose a --name")]
    InUse(String),
    /// There is none of this name.
    #[error("there is no lab named {0}; `sluice lab list` lists them")]
    Missing(String),
    /// The pod is not in it.
    #[error("{pod} is not in the lab {lab}; it has {known}")]
    NoPod {
        /// The lab.
        lab: String,
        /// What was asked for.
        pod: String,
        /// What there is.
        known: String,
    },
    /// The lab is built, but an agent does not enforce everything.
    #[error("{0}")]
    NotEnforced(String),
    /// This machine cannot do it.
    #[error("{0}")]
    Machine(String),
    /// Something failed.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// What makes a lab.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Its name, a part of the names of everything that it has.
    pub name: String,
    /// The binary `sluice`, run as agents and as reaper.
    pub sluice: PathBuf,
    /// A BPF file system, for the agents' pins.
    pub bpffs: PathBuf,
    /// Run agents. Without, nothing is enforced.
    pub agents: bool,
}

/// What a lab cannot do without.
pub(super) fn check_machine(options: &LabOptions) -> Result<(), LabError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::Machine("a lab needs root: run it with sudo".into()));
    }
    if options.agents && !Path::new("/sys/kernel/btf/vmlinux").exists() {
        let message = "this kernel has no BTF (/sys/kernel/btf/vmlinux): a lab needs a kernel built \
                       with CONFIG_DEBUG_INFO_BTF=y";
        return Err(LabError::Machine(message.into()));
    }
    Ok(())
}
