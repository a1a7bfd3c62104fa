//! From paths on the command line to texts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Bytes of one input that are read at most. A listing of 20,000 pods is below it.
pub const INPUT_LIMIT: u64 = 64 * 1024 * 1024;

/// Files below the given directories whose names end like this are manifests.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Directories nest at most this deep; what is deeper is a mistake.
const DEPTH_LIMIT: usize = 64;

/// The text of one input.
#[derive(Clone, Debug)]
pub struct Text {
    /// How messages name it: the path as given or found, `<stdin>` for `-`.
    pub file: String,
    /// Directory that relative names inside it start from.
    pub directory: PathBuf,
    /// The text.
    pub text: String,
}

/// Why an input could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system says no.
    #[error("{path}: {error}")]
    Io {
        /// Path.
        path: String,
        /// Its words.
        error: std::io::Error,
    },
    /// Too long.
    #[error("{path}: larger than {} MiB, the most that is read of one input", INPUT_LIMIT >> 20)]
    TooLarge {
        /// Path.
        path: String,
    },
    /// Not text.
    #[error("{path}: not UTF-8 text (byte {offset})")]
    NotText {
        /// Path.
        path: String,
        /// Offset of the first byte that is no text.
        offset: usize,
    },
    /// A directory without a manifest.
    #[error("{path}: no *.yaml, *.yml or *.json file in this directory")]
    Empty {
        /// Path.
        path: String,
    },
    /// A pipe or device among the manifests of a directory: reading it could wait for ever.
    #[error("{path}: not a file")]
    NotAFile {
        /// Path.
        path: String,
    },
    /// The same file again, by this path or another.
    #[error("{path}: this file is in the input already, as {first}")]
    Twice {
        /// Path.
        path: String,
        /// The path that it was read by.
        first: String,
    },
    /// Directories nest too deep.
    #[error("{path}: more than {DEPTH_LIMIT} directories deep")]
    TooDeep {
        /// Path.
        path: String,
    },
}

impl ReadError {
    fn io(path: &Path, error: std::io::Error) -> Self {
        Self::Io { path: path.display().to_string(), error }
    }
}

/// Reads all that the paths stand for, each file once.
pub fn read_all<P: AsRef<Path>>(paths: &[P]) -> Vec<Result<Text, ReadError>> {
    let mut names: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut once = |text: Text| {
        // Standard input has no path of its own.
        let file = std::fs::canonicalize(&text.file).unwrap_or_else(|_| text.file.clone().into());
        match names.entry(file) {
            Entry::Vacant(entry) => {
                entry.insert(text.file.clone());
                Ok(text)
            }
            Entry::Occupied(first) => {
                Err(ReadError::Twice { path: text.file, first: first.get().clone() })
            }
        }
    };
    let texts = paths.iter().flat_map(|path| read(path.as_ref()));
    texts.map(|text| text.and_then(&mut once)).collect()
}

/// Reads a file, every manifest of a directory (in the order of their names), or `-` for standard
/// input.
pub fn read(path: &Path) -> Vec<Result<Text, ReadError>> {
    if path == Path::new("-") {
        let text = decode("<stdin>", std::io::stdin().lock());
        return vec![text.map(|text| Text { file: "<stdin>".into(), directory: ".".into(), text })];
    }
    match find(path) {
        // Given by name, it may be a pipe: what a shell makes of `<(helm template …)`.
        Ok(files) if files == [path] => vec![open(path)],
        Ok(files) => files.iter().map(|file| read_file(file)).collect(),
        Err(error) => vec![Err(error)],
    }
}

/// The manifests that a path stands for.
///
/// # Errors
/// [`ReadError`]; [`ReadError::Empty`] for a directory without any.
pub fn find(path: &Path) -> Result<Vec<PathBuf>, ReadError> {
    if !std::fs::metadata(path).map_err(|e| ReadError::io(path, e))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    search(path, &mut Vec::new(), &mut files)?;
    if files.is_empty() {
        return Err(ReadError::Empty { path: path.display().to_string() });
    }
    files.sort();
    Ok(files)
}

/// `above` are the directories on the way here, by device and inode.
fn search(
    directory: &Path,
    above: &mut Vec<(u64, u64)>,
    files: &mut Vec<PathBuf>,
) -> Result<(), ReadError> {
    if above.len() >= DEPTH_LIMIT {
        return Err(ReadError::TooDeep { path: directory.display().to_string() });
    }
    let metadata = std::fs::metadata(directory).map_err(|e| ReadError::io(directory, e))?;
    let identity = (metadata.dev(), metadata.ino());
    if above.contains(&identity) {
        // A link back to a directory that is being searched: everything in it is found there.
        return Ok(());
    }
    above.push(identity);
    for entry in std::fs::read_dir(directory).map_err(|e| ReadError::io(directory, e))? {
        let path = entry.map_err(|e| ReadError::io(directory, e))?.path();
        // Follows links: mounted ConfigMaps are links. Hidden names are their bookkeeping.
        if path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        if path.is_dir() {
            search(&path, above, files)?;
        } else if path.extension().is_some_and(|e| EXTENSIONS.iter().any(|x| e == *x)) {
            files.push(path);
        }
    }
    above.pop();
    Ok(())
}

/// Reads one manifest, which must be a file.
///
/// # Errors
/// [`ReadError`].
pub fn read_file(path: &Path) -> Result<Text, ReadError> {
    if !std::fs::metadata(path).map_err(|e| ReadError::io(path, e))?.is_file() {
        return Err(ReadError::NotAFile { path: path.display().to_string() });
    }
    open(path)
}

fn open(path: &Path) -> Result<Text, ReadError> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|e| ReadError::io(path, e))?;
    let text = decode(&name, file)?;
    let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
    Ok(Text { file: name, directory, text })
}

fn decode(name: &str, from: impl std::io::Read) -> Result<String, ReadError> {
    let mut bytes = Vec::new();
    from.take(INPUT_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ReadError::Io { path: name.into(), error })?;
    if bytes.len() as u64 > INPUT_LIMIT {
        return Err(ReadError::TooLarge { path: name.into() });
    }
    String::from_utf8(bytes).map_err(|error| ReadError::NotText {
        path: name.into(),
        offset: error.utf8_error().valid_up_to(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_back_to_its_own_directory_adds_nothing() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let below = place.path().join("below");
        std::fs::create_dir(&below).expect("a directory");
        std::fs::write(below.join("a.yaml"), "").expect("written");
        std::os::unix::fs::symlink("..", below.join("up")).expect("linked");
        assert_eq!(find(place.path()).expect("listed"), [below.join("a.yaml")]);
    }

    #[test]
    fn the_same_file_again_is_one_error_by_whatever_path() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let file = place.path().join("a.yaml");
        std::fs::write(&file, "a: 1").expect("written");
        std::fs::write(place.path().join("b.yaml"), "a: 1").expect("written");
        let read = read_all(&[file.as_path(), place.path(), &file]);
        let words = read.iter().map(|text| match text {
            Ok(text) => text.file.clone(),
            Err(error) => error.to_string(),
        });
        let (a, b) = (file.display(), place.path().join("b.yaml"));
        let again = format!("{a}: this file is in the input already, as {a}");
        let expected = [a.to_string(), again.clone(), b.display().to_string(), again];
        assert_eq!(words.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_pipe_in_a_directory_is_refused_and_not_waited_for() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let pipe = place.path().join("pipe.yaml");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
        let read = read(place.path());
        assert!(matches!(read.as_slice(), [Err(ReadError::NotAFile { .. })]), "{read:?}");
    }
}
