//! Our programs as filters of an interface's clsact qdisc, below Linux 6.6.
//!
//! Each has a handle of its own, at the first priority that there is, and is replaced in place. What
//! others have there is theirs: it is neither replaced nor moved. Where ours cannot be the first to see
//! a packet, that is an error which names what is in the way, since a filter in front of ours can pass
//! the packet on without them.
//!
//! On some interfaces another's qdisc `ingress` is where clsact would be; the CNI plugin `bandwidth` makes
//! one. It has a single block of filters and takes those for either direction into it. So neither
//! direction is attached there: with one alone, the replies of connections that nobody saw being opened
//! would be judged by the policies of the other.

use std::io;

use aya::programs::tc::{self, NlOptions, SchedClassifierLink};
use aya::programs::{ProgramError, SchedClassifier, TcAttach, TcError};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_ECHO, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use sluice_common::abi::Direction;

use super::attach::{DIRECTIONS, hook, is_ours};
use crate::endpoint::links::Filter;
use crate::netlink::Netlink;

/// The kind of the qdisc that filters of both directions can be on.
const CLSACT: &str = "clsact";

/// Handle of whatever qdisc is there.
const QDISC: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// Priority of our filters: no filter comes before those of this one.
const PRIORITY: u16 = 1;

/// `ETH_P_ALL` of `linux/if_ether.h`, in the byte order of the wire: the protocol of our filters.
const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// Why a program could not be made a filter, or be taken off.
#[derive(Debug, thiserror::Error)]
pub enum ClsactError {
    /// Another's qdisc is where clsact would be.
    #[error(
        "its qdisc `{0}` is another's and has no room for the programs of both directions, as clsact \
         would have; have it removed (a bandwidth limit of the pod makes one), or use Linux 6.6 or later"
    )]
    Qdisc(String),
    /// Filters of others come before ours, or keep ours out.
    #[error(
        "filters of others are where sluice's must be the first, at priority 1: {}; have them moved to \
         a later priority",
        .0.join(", ")
    )]
    Filters(Vec<String>),
    /// Our filter or qdisc is not there though the kernel took it.
    #[error("the kernel took it, and does not have it")]
    Lost,
    /// The kernel refused the filter.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// It refused something else.
    #[error("cannot {what}: {error}")]
    Netlink {
        /// What.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// Makes the qdisc if there is none, and says whether it did.
///
/// # Errors
/// [`ClsactError::Qdisc`] where there is another's; or the kernel refuses.
pub(super) fn make_qdisc(ifindex: u32) -> Result<bool, ClsactError> {
    let mut is_made = false;
    if qdisc(ifindex)?.is_none() {
        match tc::qdisc_add_clsact(ifindex) {
            Ok(()) => is_made = true,
            // Another has just made one.
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(ProgramError::from(error).into()),
        }
    }
    match qdisc(ifindex)? {
        Some(kind) if kind == CLSACT => Ok(is_made),
        Some(kind) => Err(ClsactError::Qdisc(kind)),
        None => Err(ClsactError::Lost),
    }
}

/// Makes the program the first filter of a clsact qdisc; in place of one of ours. True if there was one.
///
/// # Errors
/// [`ClsactError`]; after [`ClsactError::Filters`] ours may be among them.
pub(super) fn attach(
    program: &mut SchedClassifier,
    ifindex: u32,
    direction: Direction,
) -> Result<bool, ClsactError> {
    let (parent, handle) = (tc::TcHandle::from(hook(direction)), own_handle(direction));
    let present = filters(ifindex, direction)?;
    let in_the_way = present.iter().filter(|filter| keeps_out(filter, handle));
    let in_the_way: Vec<String> = in_the_way.map(in_words).collect();
    if !in_the_way.is_empty() {
        return Err(ClsactError::Filters(in_the_way));
    }
    let is_there = present.iter().any(|filter| is_at(filter, handle));
    let id = if is_there {
        let there = SchedClassifierLink::attached(ifindex, parent, PRIORITY, handle, None);
        program.attach_to_link(there.map_err(ProgramError::IOError)?)?
    } else {
        let options = NlOptions { priority: PRIORITY, handle, classid: None };
        program.attach(ifindex, TcAttach::Netlink { parent, options })?
    };
    // Dropping the link would detach it.
    std::mem::forget(program.take_link(id)?);
    // Agents of before have used another handle.
    for filter in present.iter().filter(|filter| is_own(filter) && !is_at(filter, handle)) {
        remove_filter(ifindex, direction, filter)?;
    }
    check(program, ifindex, direction)?;
    Ok(is_there)
}

/// True if the program itself is the first filter of its direction, on a clsact qdisc.
///
/// # Errors
/// The kernel cannot be asked.
pub(super) fn is_on(
    program: &SchedClassifier,
    ifindex: u32,
    direction: Direction,
) -> Result<bool, ClsactError> {
    if qdisc(ifindex)?.as_deref() != Some(CLSACT) {
        return Ok(false);
    }
    match check(program, ifindex, direction) {
        Ok(()) => Ok(true),
        Err(ClsactError::Filters(_) | ClsactError::Lost) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes our filters off. None to take off, or no interface any more, is fine.
///
/// # Errors
/// The kernel refuses.
pub(super) fn detach(ifindex: u32) -> Result<(), ClsactError> {
    for direction in DIRECTIONS {
        for filter in filters(ifindex, direction)?.iter().filter(|filter| is_own(filter)) {
            remove_filter(ifindex, direction, filter)?;
        }
    }
    Ok(())
}

/// Removes the clsact qdisc, unless there is a filter on it.
///
/// # Errors
/// The kernel refuses.
pub(super) fn remove_qdisc(ifindex: u32) -> Result<(), ClsactError> {
    for direction in DIRECTIONS {
        if !filters(ifindex, direction)?.is_empty() {
            return Ok(());
        }
    }
    if qdisc(ifindex).ok().flatten().as_deref() != Some(CLSACT) {
        return Ok(());
    }
    let mut message = about(ifindex, TcHandle::CLSACT);
    message.header.handle = QDISC;
    let removed = ask(RouteNetlinkMessage::DelQueueDiscipline(message), NLM_F_ACK);
    gone_is_fine(removed.map(drop), "remove the qdisc")
}

/// Fails unless the program is the first filter.
fn check(program: &SchedClassifier, ifindex: u32, direction: Direction) -> Result<(), ClsactError> {
    let (own, handle) = (program.info()?.id(), own_handle(direction));
    let present = filters(ifindex, direction)?;
    let is_this = |filter: &Filter| is_at(filter, handle) && filter.program == Some(own);
    let Some(place) = present.iter().position(is_this) else { return Err(ClsactError::Lost) };
    let before: Vec<String> = present[..place].iter().map(in_words).collect();
    if before.is_empty() { Ok(()) } else { Err(ClsactError::Filters(before)) }
}

/// The handle of our filter of a direction.
const fn own_handle(direction: Direction) -> tc::TcHandle {
    match direction {
        Direction::Ingress => tc::TcHandle::new(0, 0x51),
        Direction::Egress => tc::TcHandle::new(0, 0x52),
    }
}

fn is_own(filter: &Filter) -> bool {
    filter.program.is_some() && is_ours(&filter.name)
}

/// True for our filter at its place.
fn is_at(filter: &Filter, handle: tc::TcHandle) -> bool {
    is_own(filter) && filter.priority == PRIORITY && filter.handle == u32::from(handle)
}

/// True if the kernel would not take our filter beside this one, or in place of it. All filters of a
/// priority have one kind and one protocol.
fn keeps_out(filter: &Filter, handle: tc::TcHandle) -> bool {
    let is_other_sort = filter.kind != "bpf" || filter.protocol != ALL;
    let is_at_ours = filter.handle == u32::from(handle);
    filter.chain == 0
        && filter.priority == PRIORITY
        && !is_own(filter)
        && (is_other_sort || is_at_ours)
}

fn in_words(filter: &Filter) -> String {
    let Filter { name, priority, handle, .. } = filter;
    format!("{name} (priority {priority}, handle {handle:#x})")
}

/// The qdisc at clsact's place, by kind.
fn qdisc(ifindex: u32) -> Result<Option<String>, ClsactError> {
    let question = RouteNetlinkMessage::GetQueueDiscipline(about(ifindex, TcHandle::CLSACT));
    // Without NLM_F_ECHO the kernel tells everybody who listens to changes, and not who asks.
    let answers = match ask(question, NLM_F_ACK | NLM_F_ECHO) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        answers => answers.map_err(refused("ask for its qdisc"))?,
    };
    let mut attributes = answers.into_iter().flat_map(|message| message.attributes);
    Ok(attributes.find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind),
        _ => None,
    }))
}

/// The filters that see a pod's direction, those that packets meet first in front.
fn filters(ifindex: u32, direction: Direction) -> Result<Vec<Filter>, ClsactError> {
    let question = RouteNetlinkMessage::GetTrafficFilter(about(ifindex, parent(direction)));
    let answers = ask(question, NLM_F_DUMP).map_err(refused("ask for its filters"))?;
    Ok(answers.iter().filter_map(Filter::read).collect())
}

fn remove_filter(ifindex: u32, direction: Direction, filter: &Filter) -> Result<(), ClsactError> {
    let mut message = about(ifindex, parent(direction));
    message.header.handle = filter.handle.into();
    message.header.info = u32::from(filter.priority) << 16 | u32::from(filter.protocol);
    let removed = ask(RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK);
    gone_is_fine(removed.map(drop), "remove a filter of sluice")
}

fn parent(direction: Direction) -> TcHandle {
    u32::from(tc::TcHandle::from(hook(direction))).into()
}

fn about(ifindex: u32, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = parent;
    message
}

fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<TcMessage>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut answers = Vec::new();
    Netlink::open(libc::NETLINK_ROUTE as isize)?.ask(&bytes, |answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(message)
        | RouteNetlinkMessage::NewTrafficFilter(message) => answers.push(message),
        _ => {}
    })?;
    Ok(answers)
}

/// Whatever was to be removed, or its interface, may have gone meanwhile.
fn gone_is_fine(removed: io::Result<()>, what: &'static str) -> Result<(), ClsactError> {
    match removed {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)) =>
        {
            Ok(())
        }
        removed => removed.map_err(refused(what)),
    }
}

fn refused(what: &'static str) -> impl FnOnce(io::Error) -> ClsactError {
    move |error| ClsactError::Netlink { what, error }
}
