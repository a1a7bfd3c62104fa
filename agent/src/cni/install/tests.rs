use std::collections::BTreeMap;

use super::*;

const LIST: &str =
    "{\"cniVersion\":\"0.4.0\", \"name\":\"n\", \"plugins\":[ {\"type\":\"ptp\"} ]}\n";
const SINGLE: &str = "{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"type\":\"ptp\"}\n";

fn entry() -> String {
    conflist::entry(Path::new("/run/sluice"), 10)
}

struct Setup(tempfile::TempDir);

impl Setup {
    fn new(files: &[(&str, &str)]) -> Self {
        let setup = Self(tempfile::tempdir().expect("a temporary directory"));
        files.iter().for_each(|(name, text)| setup.write(name, text));
        setup
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("written");
    }

    fn add(&self) -> Result<Outcome, InstallError> {
        add(self.0.path(), &entry(), Present::IsReplaced)
    }

    fn remove(&self) -> Vec<String> {
        let changed = remove(self.0.path()).expect("removed");
        let name =
            |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
        changed.iter().map(name).collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// All that is in the directory.
    fn content(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(self.0.path()).expect("listed");
        let read = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.expect("an entry");
            let text = fs::read_to_string(entry.path()).expect("read");
            (entry.file_name().to_string_lossy().into_owned(), text)
        };
        entries.map(read).collect()
    }
}

#[test]
fn the_first_list_gets_the_entry_and_loses_it_again_byte_for_byte() {
    let setup = Setup::new(&[("10-a.conflist", LIST), ("20-b.conflist", LIST), ("00-readme", "x")]);
    fs::set_permissions(setup.path("10-a.conflist"), Permissions::from_mode(0o640)).expect("set");
    let before = setup.content();
    assert_eq!(setup.add().expect("added"), Outcome::Written(setup.path("10-a.conflist")));
    assert_eq!(setup.add().expect("added"), Outcome::Unchanged(setup.path("10-a.conflist")));
    let after = setup.content();
    assert!(after["10-a.conflist"].contains(&entry()), "{after:?}");
    assert_eq!((&after["20-b.conflist"], after.len()), (&LIST.to_owned(), 3));
    let metadata = fs::metadata(setup.path("10-a.conflist")).expect("there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    assert_eq!(setup.remove(), ["10-a.conflist"]);
    assert_eq!(setup.content(), before);
    assert_eq!(setup.remove(), Vec::<String>::new());
}

#[test]
fn a_configuration_of_one_plugin_becomes_a_list_and_comes_back() {
    let setup = Setup::new(&[("10-a.conf", SINGLE)]);
    let before = setup.content();
    assert_eq!(setup.add().expect("added"), Outcome::Written(setup.path("10-a.conflist")));
    let after = setup.content();
    assert_eq!(after["10-a.conf.sluice-saved"], SINGLE);
    assert_eq!(after.len(), 2);
    assert_eq!(setup.add().expect("added"), Outcome::Unchanged(setup.path("10-a.conflist")));
    // Its owner writes it again: it comes first, so it is taken again.
    setup.write("10-a.conf", SINGLE);
    assert_eq!(setup.add().expect("added"), Outcome::Written(setup.path("10-a.conflist")));
    assert_eq!(setup.content(), after);
    assert_eq!(setup.remove(), ["10-a.conflist"]);
    assert_eq!(setup.content(), before);
}

#[test]
fn a_configuration_that_its_owner_writes_again_stays_and_the_list_goes() {
    let setup = Setup::new(&[("10-a.conf", SINGLE)]);
    setup.add().expect("added");
    let again = SINGLE.replace("ptp", "bridge");
    setup.write("10-a.conf", &again);
    assert_eq!(setup.remove(), ["10-a.conflist"]);
    assert_eq!(setup.content(), [("10-a.conf".to_owned(), again)].into());
}

#[test]
fn drafts_of_killed_processes_go() {
    let setup = Setup::new(&[("10-a.conflist", LIST)]);
    setup.write("20-b.conf", SINGLE);
    let before = setup.content();
    setup.add().expect("added");
    setup.write(".10-a.conflist.sluice-new", "{");
    setup.write(".20-b.conflist.sluice-new", "{");
    setup.write(".sluice-cni.sluice-new", "half a program");
    setup.remove();
    remove_binary(setup.0.path()).expect("removed");
    assert_eq!(setup.content(), before);
}

#[test]
fn a_list_that_others_have_changed_since_stays_a_list() {
    let setup = Setup::new(&[("10-a.conf", SINGLE)]);
    setup.add().expect("added");
    let list = setup.content()["10-a.conflist"].replace("\n]}", ",{\"type\":\"other\"}\n]}");
    setup.write("10-a.conflist", &list);
    assert_eq!(setup.remove(), ["10-a.conflist"]);
    let after = setup.content();
    assert_eq!(after.keys().collect::<Vec<_>>(), ["10-a.conflist"]);
    assert!(after["10-a.conflist"].contains("other") && !after["10-a.conflist"].contains(NAME));
}

#[test]
fn nothing_to_add_to_is_said_and_nothing_is_made() {
    let setup = Setup::new(&[("readme", "x")]);
    assert_eq!(setup.add().expect("no error"), Outcome::Missing);
    assert_eq!(setup.content().len(), 1);
    let absent = add(&setup.path("absent"), &entry(), Present::Stays).expect_err("no directory");
    assert!(absent.to_string().contains("absent"), "{absent}");
}

#[test]
fn what_cannot_be_read_is_named_and_left_alone() {
    let unspoken = LIST.replace("0.4.0", "0.2.0");
    for (name, text) in [
        ("10-a.conflist", "{\"name\""),
        ("10-a.conflist", &unspoken),
        ("10-a.conf", "{}"),
        ("1.json", "["),
    ] {
        let setup = Setup::new(&[(name, text), ("20-b.conflist", LIST)]);
        let before = setup.content();
        let error = setup.add().expect_err("malformed").to_string();
        assert!(error.contains(name) && error.contains("left alone"), "{error}");
        assert_eq!(setup.remove(), Vec::<String>::new());
        assert_eq!(setup.content(), before);
    }
    let setup = Setup::new(&[("10-a.conf", SINGLE), ("10-a.conflist", LIST)]);
    let before = setup.content();
    let error = setup.add().expect_err("two of one name").to_string();
    assert!(error.contains("10-a.conf ") && error.contains("10-a.conflist"), "{error}");
    assert_eq!(setup.content(), before);
}

#[test]
fn a_symbolic_link_stays_one() {
    let setup = Setup::new(&[("target", LIST)]);
    std::os::unix::fs::symlink("target", setup.path("10-a.conflist")).expect("linked");
    setup.add().expect("added");
    let link = fs::symlink_metadata(setup.path("10-a.conflist")).expect("there");
    assert!(link.is_symlink());
    assert!(setup.content()["target"].contains(NAME));
}

#[test]
fn the_plugin_is_this_program_and_can_be_run() {
    let setup = Setup::new(&[]);
    let path = binary(setup.0.path()).expect("copied");
    assert_eq!(path, setup.path(NAME));
    let modified = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).expect("there");
    let first = modified(&path);
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o755);
    binary(setup.0.path()).expect("copied");
    assert_eq!(modified(&path), first, "the same is not written again");
    fs::write(&path, "older").expect("written");
    binary(setup.0.path()).expect("copied");
    assert_eq!(fs::read(&path).expect("read"), fs::read("/proc/self/exe").expect("read"));
    remove_binary(setup.0.path()).expect("removed");
    remove_binary(setup.0.path()).expect("removing nothing is fine");
    assert!(!path.exists());
}
