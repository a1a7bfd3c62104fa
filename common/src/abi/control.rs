//! Table `control`: one element, the generation and the ABI version.

use crate::hash::Seed;

/// The only index of `control`.
pub const CONTROL_INDEX: u32 = 0;

/// Table `control`: array of one. Written by the agent: [`Self::abi_version`] once, when the tables
/// are made; [`Self::generation`] at every flip; the rest at the agent's start. Read once per packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// [`super::ABI_VERSION`] of the agent that made the tables.
    pub abi_version: u32,
    /// The generation that packets see; see [`super::Versioned`]. Starts at 1 and only grows. At
    /// `u32::MAX` (130 years at one change a second) the agent refuses any further change, by name, and
    /// the next agent makes new tables, as for a new ABI.
    pub generation: u32,
    /// Drop records per endpoint, reason and second that `events` takes at most; 0: none.
    pub event_rate: u32,
    /// Makes every hash that packets decide about another one, so that nobody outside knows which of them
    /// share a place. Chosen at random when the tables are made.
    pub hash_seed: Seed,
    /// How long flows are remembered.
    pub lifetimes: Lifetimes,
}

/// Seconds after its last packet for which a flow is remembered.
///
/// Nothing has to end a flow whose time is over: it is not found as one any more, and its place is the
/// first to be given away. All zero only in tables that nobody has finished.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// TCP and SCTP, until both ends have answered each other.
    pub opening: u32,
    /// TCP and SCTP, once they have; and what policy took back, whose ends may go on for as long.
    pub established: u32,
    /// TCP, once both ends have closed it or one has reset it; SCTP, once it is being shut down.
    pub closing: u32,
    /// UDP without an answer.
    pub udp_opening: u32,
    /// UDP that was answered, or that policy took back.
    pub udp: u32,
    /// Echo requests and replies.
    pub echo: u32,
}

impl Lifetimes {
    /// What holds where nothing else is asked for.
    ///
    /// Established: five days, because the kernel's own connection tracking, and with it the NAT before
    /// us, keeps connections as long. Closing: twice the maximum segment lifetime of RFC 9293. UDP: above
    /// the two minutes that RFC 4787 demands.
    pub const STANDARD: Self = Self {
        opening: 60,
        established: 432_000,
        closing: 120,
        udp_opening: 30,
        udp: 180,
        echo: 30,
    };
}

const _: () = assert!(size_of::<Lifetimes>() == 24);
const _: () = assert!(size_of::<Control>() == 76);

// SAFETY: `u32` fields only, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Control {}
