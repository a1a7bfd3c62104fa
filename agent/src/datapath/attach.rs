//! The programs on the tc hooks of pods' host-side interfaces.
//!
//! From Linux 6.6 on as tcx links, first in the chain and pinned, so that they outlive the agent and
//! their program is replaced in place. Below, as filters of the clsact qdisc, which the kernel keeps by
//! itself and which are replaced in place as well ([`super::clsact`]). A clsact qdisc that was made for
//! that has a directory among the pins, `<ifindex>-clsact`, so that it goes when the filters do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::SchedClassifierLink;
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttach, TcAttachType};
use aya::sys::SyscallError;
use aya::util::KernelVersion;
use sluice_common::abi::Direction;
use sluice_policy::model::direction_label;

use super::clsact::{self, ClsactError};

/// Both directions, in the order in which programs are attached: egress last, since a pod must not
/// open flows as long as the program that sees their replies is missing.
pub const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// What our programs' names begin with.
const OUR_PREFIX: &str = "sluice_";

/// What stands for a link where an agent has made the clsact qdisc.
const MADE: &str = "clsact";

/// How long the kernel may take to let go of an unpinned link; an RCU grace period is far shorter.
const LETTING_GO: Duration = Duration::from_secs(1);

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// tcx links, from Linux 6.6 on.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl Backend {
    /// The better one that this kernel has.
    pub fn detect() -> Self {
        let tcx_since = KernelVersion::new(6, 6, 0);
        if KernelVersion::current().is_ok_and(|kernel| kernel >= tcx_since) {
            Self::Tcx
        } else {
            Self::Clsact
        }
    }
}

/// Why a program could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel refused.
    #[error("interface {ifindex}, {}: {error}", direction_label(*direction))]
    Kernel {
        /// The interface.
        ifindex: u32,
        /// The pod's direction.
        direction: Direction,
        /// Why.
        error: Box<ProgramError>,
    },
    /// It could not be made a filter, or be taken off.
    #[error("interface {ifindex}: {error}")]
    Clsact {
        /// The interface.
        ifindex: u32,
        /// Why.
        error: Box<ClsactError>,
    },
    /// A pin.
    #[error("pinned link {}: {error}", path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What [`Attacher::attach`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// A program was there, and the new one took its place between two packets.
    Replaced,
    /// None was there.
    New,
}

/// Attaches programs to interfaces of this network namespace.
#[derive(Clone, Debug)]
pub struct Attacher {
    backend: Backend,
    links: PathBuf,
}

impl Attacher {
    /// With pins in the directory `links`.
    pub const fn new(backend: Backend, links: PathBuf) -> Self {
        Self { backend, links }
    }

    /// Puts `program` on the hook of `direction`; in place where one of ours is there.
    ///
    /// # Errors
    /// [`AttachError`]: what was attached before still is.
    pub fn attach(
        &self,
        program: &mut SchedClassifier,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Attached, AttachError> {
        match self.backend {
            Backend::Tcx => self.attach_tcx(program, ifindex, direction),
            Backend::Clsact => self.attach_clsact(program, ifindex, direction),
        }
    }

    /// Puts `program` on the hook if it is not there, and says whether that was needed.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn ensure(
        &self,
        program: &mut SchedClassifier,
        ifindex: u32,
        direction: Direction,
    ) -> Result<bool, AttachError> {
        let is_on = match self.backend {
            Backend::Tcx => self.is_on_tcx(program, ifindex, direction)?,
            Backend::Clsact => {
                clsact::is_on(program, ifindex, direction).map_err(no_filter(ifindex))?
            }
        };
        if is_on { Ok(false) } else { self.attach(program, ifindex, direction).map(|_| true) }
    }

    /// Takes our programs off both hooks. Nothing to take off, or no interface any more, is fine. The
    /// kernel lets go of an unpinned link a moment later, after an RCU grace period.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn detach(&self, ifindex: u32) -> Result<(), AttachError> {
        match self.backend {
            Backend::Tcx => {
                for direction in DIRECTIONS {
                    remove_pin(&self.pin(ifindex, direction))?;
                }
                Ok(())
            }
            Backend::Clsact => self.detach_clsact(ifindex),
        }
    }

    /// Interfaces with a pinned link, alive or not. For clsact: those that were given the qdisc.
    ///
    /// # Errors
    /// [`AttachError::Pin`].
    pub fn pinned(&self) -> Result<BTreeSet<u32>, AttachError> {
        named(&self.links, |_| true)
    }

    fn pin(&self, ifindex: u32, direction: Direction) -> PathBuf {
        self.links.join(format!("{ifindex}-{}", direction_label(direction)))
    }

    /// The sign that an interface's clsact qdisc was made by an agent.
    fn made(&self, ifindex: u32) -> PathBuf {
        self.links.join(format!("{ifindex}-{MADE}"))
    }

    fn attach_clsact(
        &self,
        program: &mut SchedClassifier,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Attached, AttachError> {
        if clsact::make_qdisc(ifindex).map_err(no_filter(ifindex))? {
            let made = self.made(ifindex);
            match fs::create_dir(&made) {
                // Of an interface that had this index before.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => created.map_err(bad_pin(&made))?,
            }
        }
        let is_replaced =
            clsact::attach(program, ifindex, direction).map_err(no_filter(ifindex))?;
        Ok(if is_replaced { Attached::Replaced } else { Attached::New })
    }

    fn detach_clsact(&self, ifindex: u32) -> Result<(), AttachError> {
        clsact::detach(ifindex).map_err(no_filter(ifindex))?;
        let made = self.made(ifindex);
        if made.exists() {
            clsact::remove_qdisc(ifindex).map_err(no_filter(ifindex))?;
            fs::remove_dir(&made).map_err(bad_pin(&made))?;
        }
        Ok(())
    }

    /// True if `program` itself is on the tcx hook, with its pin.
    fn is_on_tcx(
        &self,
        program: &SchedClassifier,
        ifindex: u32,
        direction: Direction,
    ) -> Result<bool, AttachError> {
        let on_hook = on_tcx(ifindex, direction).map_err(refused(ifindex, direction))?;
        let own = program.info().map_err(refused(ifindex, direction))?.id();
        Ok(on_hook.iter().any(|(id, _)| *id == own) && self.pin(ifindex, direction).exists())
    }

    fn attach_tcx(
        &self,
        program: &mut SchedClassifier,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Attached, AttachError> {
        let pin = self.pin(ifindex, direction);
        if let Some(link) = live_link(&pin)? {
            match program.attach_to_link(link) {
                Ok(id) => {
                    drop(program.take_link(id).map_err(refused(ifindex, direction))?);
                    if self.is_on_tcx(program, ifindex, direction)? {
                        return Ok(Attached::Replaced);
                    }
                    // The pin is of an interface with this index in another namespace.
                }
                // The interface that it was made for is gone.
                Err(error) if errno(&error) == Some(libc::ENOLINK) => {}
                Err(error) => return Err(refused(ifindex, direction)(error)),
            }
            remove_pin(&pin)?;
        }
        let link = new_link(program, ifindex, direction).map_err(refused(ifindex, direction))?;
        FdLink::try_from(link).map_err(bad_pin(&pin))?.pin(&pin).map_err(bad_pin(&pin))?;
        Ok(Attached::New)
    }
}

/// Interfaces with a pinned link in the directory `links`.
///
/// # Errors
/// [`AttachError::Pin`].
pub fn pinned(links: &Path) -> Result<BTreeSet<u32>, AttachError> {
    named(links, |what| what != MADE)
}

/// Interfaces with something in the directory `links` for which `is_meant` holds.
fn named(links: &Path, is_meant: impl Fn(&str) -> bool) -> Result<BTreeSet<u32>, AttachError> {
    let entries = match fs::read_dir(links) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(bad_pin(links)(error)),
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(bad_pin(links))?.file_name();
        let parts = name.to_str().and_then(|name| name.split_once('-'));
        let meant = parts.filter(|(_, what)| is_meant(what));
        found.extend(meant.and_then(|(ifindex, _)| ifindex.parse::<u32>().ok()));
    }
    Ok(found)
}

/// Programs of others on the tcx hooks of an interface, by direction: `name (id 7)`, in their order.
///
/// # Errors
/// [`AttachError::Kernel`].
pub fn foreign_tcx(ifindex: u32) -> Result<BTreeMap<Direction, Vec<String>>, AttachError> {
    let mut found = BTreeMap::new();
    for direction in DIRECTIONS {
        let others: Vec<String> = on_tcx(ifindex, direction)
            .map_err(refused(ifindex, direction))?
            .into_iter()
            .filter(|(_, name)| !is_ours(name))
            .map(|(id, name)| format!("{name} (id {id})"))
            .collect();
        found.insert(direction, others);
    }
    Ok(found)
}

/// Our programs on the tcx hooks of an interface, in the same form.
///
/// # Errors
/// [`AttachError::Kernel`].
pub fn own_tcx(ifindex: u32) -> Result<Vec<String>, AttachError> {
    let mut found = Vec::new();
    for direction in DIRECTIONS {
        let programs = on_tcx(ifindex, direction).map_err(refused(ifindex, direction))?;
        let ours = programs.into_iter().filter(|(_, name)| is_ours(name));
        found.extend(ours.map(|(id, name)| format!("{name} (id {id})")));
    }
    Ok(found)
}

/// True for the name of one of our programs.
pub fn is_ours(name: &str) -> bool {
    name.starts_with(OUR_PREFIX)
}

/// The hook on the host side that sees a pod's direction.
pub(super) const fn hook(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Egress,
        Direction::Egress => TcAttachType::Ingress,
    }
}

/// Ids and names of the programs on a tcx hook; none below Linux 6.6.
fn on_tcx(ifindex: u32, direction: Direction) -> Result<Vec<(u32, String)>, ProgramError> {
    if Backend::detect() != Backend::Tcx {
        return Ok(Vec::new());
    }
    let (_, programs) = SchedClassifier::query_tcx(ifindex, hook(direction))?;
    let name = |info: &aya::programs::ProgramInfo| info.name_as_str().unwrap_or("?").to_owned();
    Ok(programs.iter().map(|info| (info.id(), name(info))).collect())
}

/// Attaches the program first on a tcx hook.
///
/// A link whose pin was removed stays on the hook until the kernel lets go of it, and the hook takes a
/// program only once (EEXIST): the same program can come back only then.
fn new_link(
    program: &mut SchedClassifier,
    ifindex: u32,
    direction: Direction,
) -> Result<SchedClassifierLink, ProgramError> {
    let begun = Instant::now();
    loop {
        let order = LinkOrder::first();
        match program.attach(ifindex, TcAttach::Tcx { attach_type: hook(direction), order }) {
            Ok(id) => return program.take_link(id),
            Err(error) if errno(&error) == Some(libc::EEXIST) && begun.elapsed() < LETTING_GO => {
                std::thread::sleep(LETTING_GO / 200);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The link that is pinned there, if any.
fn live_link(pin: &Path) -> Result<Option<SchedClassifierLink>, AttachError> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => {
            SchedClassifierLink::try_from(FdLink::from(link)).map(Some).map_err(bad_pin(pin))
        }
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(bad_pin(pin)(error)),
    }
}

fn remove_pin(pin: &Path) -> Result<(), AttachError> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(bad_pin(pin)(error)),
        _ => Ok(()),
    }
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        _ => None,
    }
}

fn refused(ifindex: u32, direction: Direction) -> impl FnOnce(ProgramError) -> AttachError {
    move |error| AttachError::Kernel { ifindex, direction, error: Box::new(error) }
}

fn no_filter(ifindex: u32) -> impl FnOnce(ClsactError) -> AttachError {
    move |error| AttachError::Clsact { ifindex, error: Box::new(error) }
}

fn bad_pin<E: std::error::Error + Send + Sync + 'static>(
    path: &Path,
) -> impl FnOnce(E) -> AttachError {
    let path = path.to_path_buf();
    move |error| AttachError::Pin { path, error: Box::new(error) }
}
