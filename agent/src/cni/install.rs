//! The plugin's file, and our entry in the network configuration of a node.
//!
//! A runtime takes the first file of its configuration directory (by name, of those that end in
//! `.conf`, `.conflist` or `.json`). Our entry goes into that one:
//!
//! * A list gets it behind its other plugins; everything else of its text stays.
//! * A configuration of one plugin becomes a list, `NAME.conf` → `NAME.conflist`, that contains its
//!   text. The file itself is kept as `NAME.conf.sluice-saved`, which no runtime reads, and comes back
//!   when the entry is removed.
//! * What cannot be read, or is of a version that the plugin does not speak, is left alone, and named.
//!
//! Every file is written beside its place and renamed into it, with the mode and owner of the one
//! before: a runtime sees the old one or the new one. The plugin's own file is there before the entry
//! is, and longer.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::NAME;
use super::conflist::{self, ConflistError, Present};
use crate::draft;

/// What a runtime reads.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// Behind the name of a configuration that a list has taken the place of.
const SAVED: &str = "sluice-saved";

/// Why something could not be installed or removed. Nothing was changed, but for what is named.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or directory.
    #[error("{}: {error}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A network configuration.
    #[error("{}: {error}; it is left alone: put it right, or remove it", path.display())]
    Configuration {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        error: ConflistError,
    },
    /// A list of this name is there already, and another file comes first.
    #[error(
        "{} is of one plugin, and {} is there beside it: remove the one that is not meant",
        path.display(),
        list.display()
    )]
    Ambiguous {
        /// The configuration that a runtime takes.
        path: PathBuf,
        /// The list that it would become.
        list: PathBuf,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_path_buf();
    move |error| InstallError::Io { path, error }
}

/// What became of a network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The directory holds none yet.
    Missing,
    /// Our entry was there.
    Unchanged(PathBuf),
    /// Our entry was added to this file, or changed in it.
    Written(PathBuf),
}

/// Copies this program into `directory` as the plugin.
///
/// # Errors
/// [`InstallError::Io`].
pub fn binary(directory: &Path) -> Result<PathBuf, InstallError> {
    let own = Path::new("/proc/self/exe");
    let target = directory.join(NAME);
    let content = fs::read(own).map_err(at(own))?;
    if fs::read(&target).is_ok_and(|present| present == content) {
        return Ok(target);
    }
    replace(&target, &content, &Permissions::from_mode(0o755), None)?;
    Ok(target)
}

/// Removes the plugin's file. Nothing to remove is fine.
///
/// # Errors
/// [`InstallError::Io`].
pub fn remove_binary(directory: &Path) -> Result<(), InstallError> {
    let plugin = directory.join(NAME);
    remove_draft(&plugin)?;
    remove_file(&plugin)
}

/// Has our entry in the configuration that a runtime takes.
///
/// # Errors
/// [`InstallError`].
pub fn add(directory: &Path, entry: &str, present: Present) -> Result<Outcome, InstallError> {
    let files = configurations(directory)?;
    let Some(path) = files.first() else { return Ok(Outcome::Missing) };
    let (text, permissions, owner) = read(path)?;
    let wrong = |error| InstallError::Configuration { path: path.clone(), error };
    if is_list(path) {
        return match conflist::add(&text, entry, present).map_err(wrong)? {
            None => Ok(Outcome::Unchanged(path.clone())),
            Some(changed) => {
                replace(path, changed.as_bytes(), &permissions, Some(owner))?;
                Ok(Outcome::Written(path.clone()))
            }
        };
    }
    let wrapped = conflist::wrap(&text, entry).map_err(wrong)?;
    let list = path.with_extension("conflist");
    let is_ours = |file: &PathBuf| {
        *file == list
            && read(file).is_ok_and(|(text, ..)| conflist::has_entry(&text).unwrap_or(false))
    };
    // The list must be what the runtime takes once this file is out of its way.
    if files.get(1).is_some_and(|next| *next <= list && !is_ours(next)) {
        return Err(InstallError::Ambiguous { path: path.clone(), list });
    }
    replace(&list, wrapped.as_bytes(), &permissions, Some(owner))?;
    fs::rename(path, saved(path)).map_err(at(path))?;
    Ok(Outcome::Written(list))
}

/// Takes our entry out of every configuration, and returns those that were changed.
///
/// # Errors
/// [`InstallError`] of the first that could not be; the others are done.
pub fn remove(directory: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut changed = Vec::new();
    let mut failed = None;
    let configurations = configurations(directory)?;
    for path in &configurations {
        remove_draft(&path.with_extension("conflist"))?;
    }
    for path in configurations.into_iter().filter(|path| is_list(path)) {
        match remove_from(&path) {
            Ok(true) => changed.push(path),
            Ok(false) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    match failed {
        None => Ok(changed),
        Some(error) => Err(error),
    }
}

fn remove_from(path: &Path) -> Result<bool, InstallError> {
    let (text, permissions, owner) = read(path)?;
    let without = match conflist::remove(&text) {
        Ok(Some(without)) => without,
        Ok(None) => return Ok(false),
        // Nobody who cannot read it runs our plugin by it.
        Err(ConflistError::Form(_) | ConflistError::NoPlugins) => return Ok(false),
        Err(error) => return Err(InstallError::Configuration { path: path.to_path_buf(), error }),
    };
    for single in ["conf", "json"].map(|extension| path.with_extension(extension)) {
        let kept = saved(&single);
        let Ok((former, ..)) = read(&kept) else { continue };
        let made = conflist::wrap(&former, &conflist::entry(Path::new("/"), 1));
        let is_as_made = made
            .and_then(|made| conflist::remove(&made))
            .is_ok_and(|made| made.as_deref() == Some(without.as_str()));
        if is_as_made {
            // Its name comes first: it is in force before the list is gone. Where its owner has written
            // it again, that is what counts.
            if single.exists() {
                remove_file(&kept)?;
            } else {
                fs::rename(&kept, &single).map_err(at(&kept))?;
            }
            remove_file(path)?;
            return Ok(true);
        }
        // Others have changed the list since.
        remove_file(&kept)?;
    }
    replace(path, without.as_bytes(), &permissions, Some(owner))?;
    Ok(true)
}

/// Files that a runtime reads, in its order.
fn configurations(directory: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "conflist")
}

fn saved(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(SAVED);
    name.into()
}

/// User and group.
type Owner = (u32, u32);

fn read(path: &Path) -> Result<(String, Permissions, Owner), InstallError> {
    let text = fs::read_to_string(path).map_err(at(path))?;
    let metadata = fs::metadata(path).map_err(at(path))?;
    Ok((text, metadata.permissions(), (metadata.uid(), metadata.gid())))
}

/// Writes a file as a whole or not at all. Where `path` is a symbolic link, what it leads to.
fn replace(
    path: &Path,
    content: &[u8],
    permissions: &Permissions,
    owner: Option<Owner>,
) -> Result<(), InstallError> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let directory = path.parent().unwrap_or(Path::new("/"));
    let write = |file: &mut File| {
        file.write_all(content)?;
        file.set_permissions(permissions.clone())?;
        if let Some((user, group)) = owner {
            fchown(&*file, Some(user), Some(group))?;
        }
        file.sync_all()
    };
    let written = draft::replace(&path, write).and_then(|()| File::open(directory)?.sync_all());
    written.map_err(at(&path))
}

/// Removes what a killed process may have left of writing this file.
fn remove_draft(path: &Path) -> Result<(), InstallError> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    draft::remove(&target).map_err(at(&target))
}

fn remove_file(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
