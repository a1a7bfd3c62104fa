//! Many elements of a table by one syscall, which aya has no call for.
//!
//! `BPF_MAP_LOOKUP_BATCH` is there for arrays and hashes since Linux 5.6, for per-CPU arrays since
//! 5.13. An older kernel is asked for arrays element by element. `BPF_MAP_UPDATE_BATCH` is there for
//! hashes since 5.6, for tries since 5.13; where it is not, elements are written one by one.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use aya::Pod;
use aya::maps::{Map, MapData, MapError};

use super::maps::MapFault;
use super::syscall::{Command, ElementAttributes, bpf};

/// Elements that one call asks of a hash. More than any bucket holds, so that each call gets on.
const HASH_CHUNK: u32 = 4096;

/// Elements that one call asks of an array.
const ARRAY_CHUNK: u32 = 4096;

/// `BPF_F_LOCK` of `linux/bpf.h`: an element is read, or written in place, under its lock. One of a hash
/// that is not there is added.
pub(super) const LOCKED: u64 = 4;

/// `ENOTSUPP`, which the kernel answers where a kind of table has no batches; libc does not have it.
const NOT_SUPPORTED: i32 = 524;

/// The part of `union bpf_attr` for [`Command::LookupBatch`] and [`Command::UpdateBatch`]. Pointers are
/// integers there.
#[repr(C)]
#[derive(Debug, Default)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

/// A table with keys `K`, each with `per_key` values `V`: one, or one for every possible CPU.
#[derive(Debug)]
struct Table<K, V> {
    name: &'static str,
    fd: OwnedFd,
    per_key: usize,
    /// [`LOCKED`] where each element is to be read under its lock.
    element_flags: u64,
    entries: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    fn new(name: &'static str, data: &MapData, per_key: usize) -> Result<Self, MapFault> {
        let fault = |source| MapFault::Access { table: name, source };
        let info = data.info().map_err(fault)?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        // The kernel writes whole elements, per CPU on multiples of 8 bytes.
        let whole = per_key == 1 || size_of::<V>().is_multiple_of(8);
        if sizes != (size_of::<K>(), size_of::<V>()) || !whole {
            let reason = format!("its keys and values have {sizes:?} bytes");
            return Err(fault(MapError::IoError(io::Error::other(reason))));
        }
        let fd = data.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| fault(MapError::IoError(error)))?;
        Ok(Self { name, fd, per_key, element_flags: 0, entries: PhantomData })
    }

    fn map_fd(&self) -> u32 {
        self.fd.as_raw_fd().cast_unsigned()
    }

    fn fault(&self, error: io::Error) -> MapFault {
        MapFault::Access { table: self.name, source: MapError::IoError(error) }
    }

    /// Asks for as many elements as `keys` has room for, and says how many came. `before` and `after`
    /// are where the walk stands, in 4 bytes for arrays and hashes alike.
    fn lookup(
        &self,
        before: Option<&u32>,
        after: &mut u32,
        keys: &mut [MaybeUninit<K>],
        values: &mut [MaybeUninit<V>],
    ) -> (usize, io::Result<()>) {
        assert!(values.len() >= keys.len() * self.per_key, "room for all that is asked for");
        let mut attributes = BatchAttributes {
            in_batch: before.map_or(0, |before| std::ptr::from_ref(before) as u64),
            out_batch: std::ptr::from_mut(after) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
            map_fd: self.map_fd(),
            element_flags: self.element_flags,
            ..BatchAttributes::default()
        };
        // SAFETY: the kernel writes at most `count` keys and values, for which there is room: the
        // sizes of both were compared with the table's, and a per-CPU table has `per_key` values for
        // each key. The walk's places have 4 bytes, as much as keys of arrays and positions in hashes.
        let result = unsafe { bpf(Command::LookupBatch, &mut attributes) };
        (attributes.count as usize, result.map(drop))
    }
}

/// A hash or trie that entries are added to, or replaced in.
#[derive(Debug)]
pub(super) struct TableWriter<K, V>(Table<K, V>);

impl<K: Pod, V: Pod> TableWriter<K, V> {
    /// Of a hash or trie.
    pub(super) fn new(name: &'static str, map: &Map) -> Result<Self, MapFault> {
        match map {
            Map::HashMap(data) | Map::LpmTrie(data) => Table::new(name, data, 1).map(Self),
            _ => Err(MapFault::Missing(name)),
        }
    }

    /// Writes these values under these keys, each with `flags`, in their order.
    ///
    /// # Errors
    /// [`MapFault`]; [`MapFault::Full`] where the table took no further entry. Those before it are
    /// written.
    ///
    /// # Panics
    /// Unless there is a value for each key.
    pub(super) fn insert(&self, keys: &[K], values: &[V], flags: u64) -> Result<(), MapFault> {
        assert_eq!(keys.len(), values.len(), "a value for each key");
        let result = match self.together(keys, values, flags) {
            Err(error) if error.raw_os_error() == Some(NOT_SUPPORTED) => {
                let mut entries = keys.iter().zip(values);
                entries.try_for_each(|(key, value)| self.single(key, value, flags))
            }
            result => result,
        };
        result.map_err(|error| match error.raw_os_error() {
            Some(libc::E2BIG | libc::ENOSPC) => MapFault::Full(self.0.name),
            _ => self.0.fault(error),
        })
    }

    fn together(&self, keys: &[K], values: &[V], flags: u64) -> io::Result<()> {
        let mut attributes = BatchAttributes {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: u32::try_from(keys.len()).map_err(io::Error::other)?,
            map_fd: self.0.map_fd(),
            element_flags: flags,
            ..BatchAttributes::default()
        };
        // SAFETY: the kernel reads `count` keys and values, which are there: the sizes of both were
        // compared with the table's. Of this process's memory it writes the attributes alone.
        unsafe { bpf(Command::UpdateBatch, &mut attributes) }.map(drop)
    }

    fn single(&self, key: &K, value: &V, flags: u64) -> io::Result<()> {
        let mut attributes = ElementAttributes {
            map_fd: self.0.map_fd(),
            padding: 0,
            key: std::ptr::from_ref(key) as u64,
            value: std::ptr::from_ref(value) as u64,
            flags,
        };
        // SAFETY: the kernel reads a key and a value, whose sizes were compared with the table's.
        unsafe { bpf(Command::UpdateElement, &mut attributes) }.map(drop)
    }
}

/// An array, or a per-CPU array, to be read in ranges.
#[derive(Debug)]
pub(super) struct ArrayReader<V>(Table<u32, V>);

impl<V: Pod + Default> ArrayReader<V> {
    /// Of an array.
    pub(super) fn new(name: &'static str, map: &Map) -> Result<Self, MapFault> {
        match map {
            Map::Array(data) => Table::new(name, data, 1).map(Self),
            _ => Err(MapFault::Missing(name)),
        }
    }

    /// Of an array whose elements have a lock, each read under it.
    pub(super) fn locked(name: &'static str, map: &Map) -> Result<Self, MapFault> {
        let Self(table) = Self::new(name, map)?;
        Ok(Self(Table { element_flags: LOCKED, ..table }))
    }

    /// Of a per-CPU array.
    pub(super) fn per_cpu(name: &'static str, map: &Map) -> Result<Self, MapFault> {
        let Map::PerCpuArray(data) = map else { return Err(MapFault::Missing(name)) };
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| MapFault::Access {
            table: name,
            source: MapError::IoError(error),
        })?;
        Table::new(name, data, cpus.get() as usize).map(Self)
    }

    /// Values for each element: one for every possible CPU, or one.
    pub(super) const fn per_element(&self) -> usize {
        self.0.per_key
    }

    /// The values of the elements from `first` on, [`Self::per_element`] for each. Elements change
    /// meanwhile: they are read one after the other.
    ///
    /// # Errors
    /// [`MapFault::Access`]; also where the array ends before.
    pub(super) fn read(&self, first: u32, count: u32) -> Result<Vec<V>, MapFault> {
        let mut values = Vec::with_capacity(count as usize * self.per_element());
        let end = first.saturating_add(count);
        let mut next = first;
        while next < end {
            let chunk = ARRAY_CHUNK.min(end - next);
            match self.batch(next, chunk, &mut values) {
                Ok(()) => next += chunk,
                Err(error) if error.raw_os_error() == Some(NOT_SUPPORTED) => {
                    self.single(next, &mut values).map_err(|error| self.0.fault(error))?;
                    next += 1;
                }
                Err(error) => return Err(self.0.fault(error)),
            }
        }
        Ok(values)
    }

    fn batch(&self, first: u32, count: u32, values: &mut Vec<V>) -> io::Result<()> {
        let per_element = self.per_element();
        values.reserve(count as usize * per_element);
        let mut keys = vec![MaybeUninit::<u32>::uninit(); count as usize];
        let room = &mut values.spare_capacity_mut()[..count as usize * per_element];
        // An array's walk stands at the element before.
        let (before, mut after) = (first.checked_sub(1), 0);
        let (read, result) = self.0.lookup(before.as_ref(), &mut after, &mut keys, room);
        result?;
        if read != count as usize {
            return Err(io::Error::other(format!("{read} elements instead of {count}")));
        }
        // SAFETY: the kernel has written `count` elements of `per_element` values each behind the end,
        // into the vector's own room.
        unsafe { values.set_len(values.len() + read * per_element) };
        Ok(())
    }

    fn single(&self, index: u32, values: &mut Vec<V>) -> io::Result<()> {
        let mut element = vec![V::default(); self.per_element()];
        let mut attributes = ElementAttributes {
            map_fd: self.0.map_fd(),
            padding: 0,
            key: std::ptr::from_ref(&index) as u64,
            value: element.as_mut_ptr() as u64,
            flags: self.0.element_flags,
        };
        // SAFETY: the kernel reads a key of 4 bytes and writes one element, whose size was compared
        // with the table's.
        unsafe { bpf(Command::LookupElement, &mut attributes) }?;
        values.append(&mut element);
        Ok(())
    }
}

/// A hash to be read as a whole.
#[derive(Debug)]
pub(super) struct HashReader<K, V>(Table<K, V>);

impl<K: Pod, V: Pod> HashReader<K, V> {
    /// Of a hash.
    pub(super) fn new(name: &'static str, map: &Map) -> Result<Self, MapFault> {
        match map {
            Map::HashMap(data) => Table::new(name, data, 1).map(Self),
            _ => Err(MapFault::Missing(name)),
        }
    }

    /// Of a hash that forgets what was used least recently.
    pub(super) fn lru(name: &'static str, map: &Map) -> Result<Self, MapFault> {
        match map {
            Map::LruHashMap(data) => Table::new(name, data, 1).map(Self),
            _ => Err(MapFault::Missing(name)),
        }
    }

    /// How many entries there are, more or less: see [`Self::read`].
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub(super) fn count(&self) -> Result<usize, MapFault> {
        let mut count = 0;
        self.walk(|_, _| count += 1)?;
        Ok(count)
    }

    /// All entries. What is added or removed meanwhile may be there or not; what stays is there once.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub(super) fn read(&self) -> Result<Vec<(K, V)>, MapFault> {
        let mut entries = Vec::new();
        self.walk(|key, value| entries.push((key, value)))?;
        Ok(entries)
    }

    fn walk(&self, mut visit: impl FnMut(K, V)) -> Result<(), MapFault> {
        let mut keys = vec![MaybeUninit::<K>::uninit(); HASH_CHUNK as usize];
        let mut values = vec![MaybeUninit::<V>::uninit(); HASH_CHUNK as usize];
        let mut position = None;
        loop {
            let mut after = 0;
            let (read, result) =
                self.0.lookup(position.as_ref(), &mut after, &mut keys, &mut values);
            let ended = match result {
                Ok(()) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) => return Err(self.0.fault(error)),
            };
            for (key, value) in keys.iter().zip(&values).take(read) {
                // SAFETY: the kernel has written the first `read` keys; every bit pattern is valid.
                let key = unsafe { key.assume_init() };
                // SAFETY: as for the keys.
                let value = unsafe { value.assume_init() };
                visit(key, value);
            }
            if ended {
                return Ok(());
            }
            position = Some(after);
        }
    }
}
