//! The generation: flipped by one atomic store, followed by a grace period ([`super::grace`]).

use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, Map, MapData, MapError};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use sluice_common::abi::{CONTROL_INDEX, Control};

use super::maps::MapFault;

/// The table `control`, mapped into memory: a map update would copy the element byte by byte, the
/// flip must be one store.
pub(super) struct ControlPage {
    table: Array<MapData, Control>,
    /// Start of the table's only page. Its element stays mapped as long as this value lives.
    page: NonNull<Control>,
}

// SAFETY: the page is shared memory that belongs to this value; it is accessed through `&self` by
// atomic operations alone.
unsafe impl Send for ControlPage {}
// SAFETY: as above.
unsafe impl Sync for ControlPage {}

/// Length of the mapping; the kernel rounds it up to a page.
const LENGTH: NonZeroUsize = NonZeroUsize::new(size_of::<Control>()).expect("not empty");

impl ControlPage {
    pub(super) fn new(map: Map) -> Result<Self, MapFault> {
        let Map::Array(data) = &map else { return Err(MapFault::Missing("control")) };
        let fd = data.fd();
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
        let page = unsafe { mmap(None, LENGTH, access, MapFlags::MAP_SHARED, fd.as_fd(), 0) }
            .map_err(|e| MapFault::Mapping(e.into()))?;
        let control = Self { page: page.cast(), table: map.try_into().map_err(fault)? };
        Ok(control)
    }

    pub(super) fn read(&self) -> Result<Control, MapFault> {
        self.table.get(&CONTROL_INDEX, 0).map_err(fault)
    }

    /// The generation that packets which begin now see.
    pub(super) fn generation(&self) -> u32 {
        self.word().load(Ordering::Acquire)
    }

    /// Writes the whole element: only before the first packet, or with the generation unchanged.
    pub(super) fn write(&mut self, control: &Control) -> Result<(), MapFault> {
        self.table.set(CONTROL_INDEX, control, 0).map_err(fault)
    }

    /// Makes everything visible that was staged for `generation`.
    pub(super) fn flip(&mut self, generation: u32) {
        self.word().store(generation, Ordering::Release);
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: the mapping holds a whole `Control` for as long as `self` lives, and the field's
        // address is aligned as every `u32` of a page-aligned `repr(C)` struct.
        let field = unsafe { &raw mut (*self.page.as_ptr()).generation };
        // SAFETY: valid as above; the kernel's programs only read it.
        unsafe { AtomicU32::from_ptr(field) }
    }
}

const fn fault(source: MapError) -> MapFault {
    MapFault::Access { table: "control", source }
}

impl Drop for ControlPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and nothing refers to it any more.
        // Failure would leave a page mapped, which harms nobody.
        let _ = unsafe { munmap(self.page.cast(), LENGTH.get()) };
    }
}
