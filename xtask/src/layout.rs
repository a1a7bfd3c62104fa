//! Rules about the tree that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::workspace;

/// Lines that a source file may have: one subject fits.
const LINES_MAX: usize = 500;

/// Files that are longer, and why.
const LONGER: &[(&str, &str)] = &[];

/// Every crate inherits the workspace's lints; no source file is over [`LINES_MAX`] without a reason.
pub(crate) fn check() -> anyhow::Result<()> {
    println!("$ # layout: inherited lints, length of files");
    let mut faults = Vec::new();
    let mut files = Vec::new();
    for member in workspace::members()? {
        if !inherits_lints(&read(&member.manifest)?) {
            faults.push(format!("{}: Cargo.toml lacks `[lints] workspace = true`", member.name));
        }
        let folder = member.manifest.parent().context("a manifest is in a folder")?;
        sources(folder, &mut files)?;
    }
    files.sort();
    files.dedup();
    for file in &files {
        let lines = read(file)?.lines().count();
        let name = file.strip_prefix(workspace::root()).unwrap_or(file);
        if lines > LINES_MAX && !LONGER.iter().any(|(longer, _)| name == Path::new(longer)) {
            faults.push(format!("{}: {lines} lines, at most {LINES_MAX}", name.display()));
        }
    }
    if !faults.is_empty() {
        bail!("layout:\n  {}", faults.join("\n  "));
    }
    println!("layout: {} files, no fault", files.len());
    Ok(())
}

/// True where a manifest says `[lints]` and then `workspace = true`.
fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    lines.find(|line| !line.is_empty() && !line.starts_with('#')) == Some("workspace = true")
}

/// Every `.rs` file below `folder`, build output left out.
fn sources(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                sources(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::inherits_lints;

    #[test]
    fn lints_are_inherited_only_by_the_table_that_says_so() {
        assert!(inherits_lints("[package]\nname = \"x\"\n\n[lints]\n# all\nworkspace = true\n"));
        assert!(!inherits_lints("[package]\nversion.workspace = true\n"));
        assert!(!inherits_lints("[lints]\n[dependencies]\nworkspace = true\n"));
        assert!(!inherits_lints("[lints.clippy]\nall = \"warn\"\n"));
    }
}
