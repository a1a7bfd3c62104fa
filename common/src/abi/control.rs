//! Table `control`: one element, the generation and the ABI version.

/// The only index of `control`.
pub const CONTROL_INDEX: u32 = 0;

/// Table `control`: array of one. Written by the agent: [`Self::abi_version`] once, when the tables
/// are made; [`Self::generation`] at every flip. Read once per packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// [`super::ABI_VERSION`] of the agent that made the tables.
    pub abi_version: u32,
    /// The generation that packets see; see [`super::Versioned`]. Starts at 1 and only grows. At
    /// `u32::MAX` (130 years at one change a second) the agent refuses any further change, by name, and
    /// the next agent makes new tables, as for a new ABI.
    pub generation: u32,
    /// Drop records per endpoint and second that `events` takes at most; 0: none.
    pub event_rate: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Control>() == 16);

// SAFETY: `u32` fields only, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Control {}
