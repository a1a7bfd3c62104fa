//! The network namespaces of this node: files on which container runtimes keep them mounted.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, fstatfs};

/// `NSFS_MAGIC` of `linux/magic.h`: tells a mounted namespace from any other file.
const NSFS: FsType = FsType(0x6e73_6673);

/// Of `linux/nsfs.h`: asks for the kind of a namespace.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// A namespace as the kernel numbers it. Inode numbers are reused after a namespace is gone, so this
/// identifies a namespace only among those that live now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// Device of the namespace file system.
    pub device: u64,
    /// Inode on it.
    pub inode: u64,
}

/// A namespace that is mounted on a file.
#[derive(Debug)]
pub struct Netns {
    /// The file.
    pub path: PathBuf,
    /// Keeps the namespace alive while it is asked about.
    pub file: File,
}

/// Namespaces mounted on files directly in `directories`, each once, without the caller's own.
///
/// A directory that does not exist holds none: runtimes make it with the first pod.
///
/// # Errors
/// A directory that cannot be listed. A file that vanishes meanwhile is not an error.
pub fn list(directories: &[PathBuf]) -> io::Result<BTreeMap<NetnsId, Netns>> {
    let own = id(&File::open("/proc/self/ns/net")?)?;
    let mut found = BTreeMap::new();
    for directory in directories {
        for path in files(directory)? {
            let Ok(file) = File::open(&path) else { continue };
            if !is_netns(&file) {
                continue;
            }
            let id = id(&file)?;
            if id != own {
                found.entry(id).or_insert(Netns { path, file });
            }
        }
    }
    Ok(found)
}

/// Not any other file, nor a namespace of another kind: asking for the number of one is an error.
fn is_netns(file: &File) -> bool {
    if !fstatfs(file).is_ok_and(|stat| stat.filesystem_type() == NSFS) {
        return false;
    }
    // SAFETY: this request takes no argument and only says of what kind the file's namespace is.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

/// The directory's entries, sorted, so that a namespace with two names is always called the same.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn id(file: &File) -> io::Result<NetnsId> {
    let metadata = file.metadata()?;
    Ok(NetnsId { device: metadata.dev(), inode: metadata.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_holds_no_namespaces() {
        let found = list(&[PathBuf::from("/nonexistent/netns")]).expect("not an error");
        assert!(found.is_empty());
    }

    #[test]
    fn plain_files_other_kinds_and_the_own_namespace_are_not_listed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink("/proc/self/ns/uts", directory.path().join("uts"))
            .expect("a symlink");
        fs::write(directory.path().join("leftover"), "").expect("a file");
        std::os::unix::fs::symlink("/proc/self/ns/net", directory.path().join("own"))
            .expect("a symlink");
        assert!(list(&[directory.path().to_path_buf()]).expect("listed").is_empty());
    }
}
