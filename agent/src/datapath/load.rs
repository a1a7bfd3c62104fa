//! Loading the tc programs, with new tables or with pinned ones.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use aya::maps::{Array, MapData, MapError};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use sluice_common::abi::{ABI_VERSION, CONTROL_INDEX, Control, Direction, Lifetimes};

use super::maps::{KernelMaps, MapFault};
use crate::PROGRAMS;

/// The tables, which are also the names of their pins. The rest of the object's maps (the trace's
/// ring, read-only data) belong to one load and are never pinned.
pub const TABLES: [&str; 16] = [
    "control",
    "endpoint_slots",
    "endpoint_slots_high",
    "endpoints",
    "peers",
    "vips",
    "hairpins",
    "hairpin_notes",
    "cidrs",
    "decisions",
    "flows",
    "fragments",
    "counters",
    "rule_hits",
    "events",
    "event_budgets",
];

/// Drop records per endpoint, reason and second, where nothing else is asked for.
pub const EVENT_RATE: u32 = 100;

/// The oldest Linux that the programs were run on, major and minor version. Older ones with what is
/// needed brought back to them are not refused for their number.
const OLDEST: (u8, u8) = (5, 10);

/// How to load.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Directory on bpffs, which must exist, to pin the tables in; tables that are pinned there are
    /// adopted. `None`: new tables that end with the process.
    pub pins: Option<PathBuf>,
    /// Slot whose every packet is logged; the code for it is dead while this is `None`.
    pub trace_slot: Option<NonZeroU32>,
    /// Drop records per endpoint, reason and second; 0: none.
    pub event_rate: u32,
    /// How long flows are remembered.
    pub lifetimes: Lifetimes,
    /// The programs keep the stamp in the packet's mark, where packets made by hand can have it.
    pub stamp_in_mark: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            pins: None,
            trace_slot: None,
            event_rate: EVENT_RATE,
            lifetimes: Lifetimes::STANDARD,
            stamp_in_mark: false,
        }
    }
}

/// Why the datapath could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The tables pinned here were made by an agent with another table layout.
    #[error("{pin} has table layout {found}, this agent has {ABI_VERSION}")]
    ForeignAbi {
        /// Pin of the table that says so.
        pin: PathBuf,
        /// Its ABI version.
        found: u32,
    },
    /// The pinned tables cannot count a further change.
    #[error("{pin} has seen 4294967295 changes, as many as it can count")]
    Exhausted {
        /// Pin of the table that says so.
        pin: PathBuf,
    },
    /// A pinned table has another shape although its ABI version is ours.
    #[error("a pinned table in {pins} has another shape: {source}")]
    ForeignTable {
        /// The directory of the pins.
        pins: PathBuf,
        /// Which table, and what differs.
        source: MapError,
    },
    /// Some tables are pinned and some are not: programs that run use the old ones of either.
    #[error("of the tables in {pins}, {missing} is not pinned")]
    MissingTable {
        /// The directory of the pins.
        pins: PathBuf,
        /// The first that is missing.
        missing: &'static str,
    },
    /// A pin could not be opened.
    #[error("cannot open {pin}: {source}")]
    Pin {
        /// The pin.
        pin: PathBuf,
        /// Why.
        source: MapError,
    },
    /// The kernel did not take the object or its maps.
    #[error("cannot load the tc programs: {0}")]
    Object(#[from] EbpfError),
    /// The verifier did not take a program.
    #[error("the kernel refuses the program {program}: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// The object lacks a program; it was built from other sources.
    #[error("the object has no program {0}")]
    MissingProgram(&'static str),
    /// A table could not be used.
    #[error(transparent)]
    Table(#[from] MapFault),
    /// Whatever it was, this kernel is older than any that the programs were run on.
    #[error(
        "this node has Linux {running}, sluice needs {}.{} or newer: {source}",
        OLDEST.0,
        OLDEST.1
    )]
    OldKernel {
        /// The kernel's release, as it says it.
        running: String,
        /// What it refused.
        source: Box<LoadError>,
    },
}

/// What the verifier says of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Instructions that the verifier looked at, over all paths (the kernel's limit is a million).
    pub verified_instructions: u32,
    /// Bytes of the program after the verifier's rewriting.
    pub translated_bytes: u32,
}

/// The loaded programs and their tables.
pub struct Datapath {
    ebpf: Ebpf,
    maps: KernelMaps,
}

/// Name of a direction's program in the object.
pub const fn program_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "sluice_ingress",
        Direction::Egress => "sluice_egress",
    }
}

impl Datapath {
    /// Loads both programs. With pins, adopts the tables that are pinned and makes the missing ones.
    ///
    /// # Errors
    /// [`LoadError`]; nothing that was pinned before is changed then.
    pub fn load(options: &LoadOptions) -> Result<Self, LoadError> {
        Self::load_here(options).map_err(|error| match error {
            LoadError::Object(_) | LoadError::Program { .. } | LoadError::Table(_) => {
                let running = std::fs::read_to_string("/proc/sys/kernel/osrelease");
                blame_age(error, running.unwrap_or_default().trim())
            }
            error => error,
        })
    }

    fn load_here(options: &LoadOptions) -> Result<Self, LoadError> {
        if let Some(pins) = &options.pins {
            check_abi(pins)?;
        }
        let tick_rate = tick_rate().map_err(MapFault::TickRate)?;
        let trace_slot = options.trace_slot.map_or(0, NonZeroU32::get);
        let mut loader = EbpfLoader::new();
        loader.override_global("TICK_RATE", &tick_rate, true);
        loader.override_global("TRACE_SLOT", &trace_slot, true);
        let stamp_in_mark = u32::from(options.stamp_in_mark);
        loader.override_global("STAMP_IN_MARK", &stamp_in_mark, true);
        if let Some(pins) = &options.pins {
            for table in TABLES {
                loader.map_pin_path(table, pins.join(table));
            }
        }
        let mut ebpf = loader.load(PROGRAMS).map_err(|e| foreign_table(e, options))?;
        for direction in [Direction::Ingress, Direction::Egress] {
            let name = program_name(direction);
            program_mut(&mut ebpf, name)?
                .load()
                .map_err(|source| LoadError::Program { program: name, source })?;
        }
        let mut maps = KernelMaps::take(&mut ebpf)?;
        maps.initialise(options.event_rate, options.lifetimes)?;
        Ok(Self { ebpf, maps })
    }

    /// The tables.
    pub const fn maps(&mut self) -> &mut KernelMaps {
        &mut self.maps
    }

    /// The program of a direction, to run it by hand.
    ///
    /// # Errors
    /// [`LoadError::MissingProgram`].
    pub fn program(&self, direction: Direction) -> Result<&SchedClassifier, LoadError> {
        let name = program_name(direction);
        let program = self.ebpf.program(name).ok_or(LoadError::MissingProgram(name))?;
        program.try_into().map_err(|source| LoadError::Program { program: name, source })
    }

    /// The program of a direction, to attach it.
    ///
    /// # Errors
    /// [`LoadError::MissingProgram`].
    pub fn program_mut(&mut self, direction: Direction) -> Result<&mut SchedClassifier, LoadError> {
        program_mut(&mut self.ebpf, program_name(direction))
    }

    /// The whole object: for the reader of the trace.
    pub const fn object(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// What the verifier says of a direction's program; zeros where the kernel is too old to tell.
    ///
    /// # Errors
    /// [`LoadError`] if the kernel does not answer.
    pub fn verification(&self, direction: Direction) -> Result<Verification, LoadError> {
        let program = program_name(direction);
        let info = self
            .program(direction)?
            .info()
            .map_err(|source| LoadError::Program { program, source })?;
        Ok(Verification {
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
            translated_bytes: info.size_translated().unwrap_or(0),
        })
    }
}

fn program_mut<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::MissingProgram(name))?;
    program.try_into().map_err(|source| LoadError::Program { program: name, source })
}

/// Refuses pins of another ABI, and pins that are not all there. Tables without a version were being made when their agent ended;
/// they are empty and are finished by [`KernelMaps::initialise`].
fn check_abi(pins: &Path) -> Result<(), LoadError> {
    let is_missing = |table: &&&'static str| !pins.join(table).exists();
    match TABLES.iter().find(is_missing) {
        Some(_) if TABLES.iter().all(|table| is_missing(&table)) => return Ok(()),
        Some(missing) => {
            return Err(LoadError::MissingTable { pins: pins.to_path_buf(), missing });
        }
        None => {}
    }
    let pin = pins.join("control");
    let open = |pin: &Path| -> Result<Control, MapError> {
        let control: Array<MapData, Control> =
            aya::maps::Map::from_map_data(MapData::from_pin(pin)?)?.try_into()?;
        control.get(&CONTROL_INDEX, 0)
    };
    match open(&pin) {
        Ok(control) if control.abi_version == ABI_VERSION && control.generation == u32::MAX => {
            Err(LoadError::Exhausted { pin })
        }
        Ok(control) if control.abi_version == ABI_VERSION || control == Control::default() => {
            Ok(())
        }
        Ok(control) => Err(LoadError::ForeignAbi { pin, found: control.abi_version }),
        Err(source @ MapError::InvalidValueSize { .. }) => {
            Err(LoadError::ForeignTable { pins: pins.to_path_buf(), source })
        }
        Err(source) => Err(LoadError::Pin { pin, source }),
    }
}

fn foreign_table(error: EbpfError, options: &LoadOptions) -> LoadError {
    match (error, &options.pins) {
        (EbpfError::MapError(source @ MapError::IncompatiblePinnedMap { .. }), Some(pins)) => {
            LoadError::ForeignTable { pins: pins.clone(), source }
        }
        (error, _) => LoadError::Object(error),
    }
}

/// Says of what a kernel refused that it is too old, if it is; `running`: its release.
fn blame_age(error: LoadError, running: &str) -> LoadError {
    let mut numbers = running.split(['.', '-', '+']).map(str::parse::<u8>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < OLDEST => {
            LoadError::OldKernel { running: running.to_owned(), source: Box::new(error) }
        }
        _ => error,
    }
}

/// The kernel's HZ: jiffies per second. The coarse clock ticks once a jiffy and says so.
pub(super) fn tick_rate() -> std::io::Result<u32> {
    let resolution = nix::time::clock_getres(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)?;
    let nanoseconds = resolution.tv_nsec().max(1);
    let rate = (1_000_000_000 + nanoseconds / 2) / nanoseconds;
    u32::try_from(rate).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told_that_they_are() {
        let refused = || LoadError::MissingProgram("x");
        let said = |running| blame_age(refused(), running).to_string();
        assert_eq!(
            said("5.4.0-200-generic"),
            "this node has Linux 5.4.0-200-generic, sluice needs 5.10 or newer: the object has no \
             program x"
        );
        assert!(said("4.19-rc1").starts_with("this node has Linux 4.19-rc1"));
        for new in ["5.10.0-32-cloud-amd64", "6.1.0", "6.12.107+deb13", "", "odd"] {
            assert_eq!(said(new), refused().to_string(), "{new}");
        }
    }
}
