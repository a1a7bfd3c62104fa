use proptest::prelude::*;
use serde_json::Value;

use super::*;

const ENTRY: &str = r#"{"type":"sluice-cni","stateDir":"/run/sluice","timeoutSeconds":10}"#;

const VERSION: &str = r#""cniVersion":"1.0.0","#;

fn added(text: &str) -> String {
    add(text, ENTRY, Present::IsReplaced).expect("a list").expect("changed")
}

#[test]
fn the_entry_is_laid_out_as_its_neighbours_and_goes_without_a_trace() {
    let text = "{\r\n \"cniVersion\":\"0.3.1\", \"name\" : \"n\",\n \"plugins\": [\n    {\"type\":\"ptp\"},\n    {\"type\": \"portmap\"}\n ] }";
    let with = added(text);
    let expected =
        "    {\"type\":\"ptp\"},\n    {\"type\": \"portmap\"},\n    ".to_owned() + ENTRY + "\n ] }";
    assert!(with.ends_with(&expected), "{with}");
    assert_eq!(remove(&with).expect("a list").as_deref(), Some(text));
}

#[test]
fn an_entry_that_is_there_stays_or_is_replaced_in_its_place() {
    let with = added(r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"}]}"#);
    assert_eq!(add(&with, ENTRY, Present::IsReplaced).expect("a list"), None);
    let other = entry(Path::new("/run/\"other\""), 5);
    assert_eq!(add(&with, &other, Present::Stays).expect("a list"), None);
    // Somebody stands behind us by now.
    let crowded = with.replace("]}", r#",{"type":"bandwidth"}]}"#);
    let changed = add(&crowded, &other, Present::IsReplaced).expect("a list").expect("changed");
    assert_eq!(changed, crowded.replace(ENTRY, &other));
    assert_eq!(
        remove(&changed).expect("a list"),
        Some(
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"},{"type":"bandwidth"}]}"#
                .to_owned()
        )
    );
}

#[test]
fn of_several_entries_one_is_left() {
    let text = format!(r#"{{{VERSION}"name":"n","plugins":[{ENTRY}, {{"type":"ptp"}},{ENTRY}]}}"#);
    let once = format!(r#"{{{VERSION}"name":"n","plugins":[{ENTRY}, {{"type":"ptp"}}]}}"#);
    assert_eq!(add(&text, ENTRY, Present::Stays).expect("a list"), Some(once));
    let none = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"}]}"#.to_owned();
    assert_eq!(remove(&text).expect("a list"), Some(none));
}

#[test]
fn what_is_no_list_is_named_and_left_alone() {
    let only = format!(r#"{{"name":"n","plugins":[{ENTRY}]}}"#);
    assert!(matches!(remove(&only), Err(ConflistError::NothingElse)));
    assert!(matches!(has_entry(r#"{"name":"n","plugins":[]}"#), Err(ConflistError::NoPlugins)));
    for text in [
        "",
        "{",
        "[]",
        r#"{"name":"n"}"#,
        r#"{"plugins":[{"type":"ptp"}]}"#,
        r#"{"name":"n","plugins":{}}"#,
        r#"{"name":"n","plugins":[{}]}"#,
        r#"{"name":"n","plugins":[{"type":"a"}],"plugins":[{"type":"b"}]}"#,
        r#"{"name":"n","plugins":[{"type":"a"}]} trailing"#,
    ] {
        assert!(matches!(add(text, ENTRY, Present::Stays), Err(ConflistError::Form(_))), "{text}");
    }
}

#[test]
fn a_version_that_the_plugin_does_not_speak_is_named_and_left_alone() {
    let spoken = |versions: &str| {
        let list = format!(r#"{{{versions}"name":"n","plugins":[{{"type":"ptp"}}]}}"#);
        let added = add(&list, ENTRY, Present::Stays);
        added.map(|with| assert!(with.is_some_and(|with| with.contains(versions))))
    };
    let refused = |versions: &str| match spoken(versions) {
        Err(error @ ConflistError::Version { .. }) => error.to_string(),
        other => panic!("{versions}: {other:?}"),
    };
    for version in VERSIONS {
        spoken(&format!(r#""cniVersion":"{version}","#)).expect(version);
    }
    spoken(r#""cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0"],"#).expect("all are spoken");
    for version in ["0.1.0", "0.2.0", "1.2.0", "x"] {
        let error = refused(&format!(r#""cniVersion":"{version}","#));
        let expected = format!("cniVersion: {version}, where sluice-cni speaks 0.3.0, ");
        assert!(error.starts_with(&expected), "{error}");
        let single = format!(r#"{{"cniVersion":"{version}","name":"n","type":"ptp"}}"#);
        assert_eq!(wrap(&single, ENTRY).expect_err("not spoken").to_string(), error);
    }
    assert!(wrap(r#"{"name":"n","type":"ptp"}"#, ENTRY).is_err(), "of 0.1.0");
    assert!(refused("").starts_with("cniVersion: none, "));
    // A runtime that does not know the second field takes none for the version.
    assert!(refused(r#""cniVersions":["1.0.0"],"#).starts_with("cniVersion: none, "));
    let newer = refused(r#""cniVersion":"1.0.0","cniVersions":["1.1.0","1.2.0"],"#);
    assert!(newer.starts_with("cniVersions: 1.2.0, "), "{newer}");
    // Where the entry is there already, it can be taken out.
    let old =
        format!(r#"{{"cniVersion":"0.2.0","name":"n","plugins":[{{"type":"ptp"}},{ENTRY}]}}"#);
    assert!(matches!(add(&old, ENTRY, Present::IsReplaced), Err(ConflistError::Version { .. })));
    assert!(remove(&old).expect("a list").is_some_and(|without| !without.contains(NAME)));
}

#[test]
fn a_configuration_of_one_plugin_becomes_a_list_with_its_bytes() {
    let text =
        "{ \"cniVersion\": \"0.4.0\", \"name\":\"n\",\n  \"type\":\"ptp\", \"mtu\": 1.50e3 }\n";
    let list = wrap(text, ENTRY).expect("a configuration");
    assert!(list.contains(text.trim()), "{list}");
    let value: Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!((&value["cniVersion"], &value["name"]), (&"0.4.0".into(), &"n".into()));
    assert_eq!(value["plugins"].as_array().map(Vec::len), Some(2));
    assert!(has_entry(&list).expect("a list"));
    assert!(wrap(r#"{"name":"n"}"#, ENTRY).is_err(), "of no plugin");
}

/// Blank space as JSON allows it.
fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,3}"
}

/// Any JSON, laid out as one line or several.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z\"\\\\é]{1,3}", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    (tree, any::<bool>()).prop_map(
        |(value, pretty)| {
            if pretty { format!("{value:#}") } else { value.to_string() }
        },
    )
}

/// The text of a plugin's entry that is not ours.
fn plugin() -> impl Strategy<Value = String> {
    (json(), space(), "[a-z-]{1,8}", space())
        .prop_map(|(x, a, kind, b)| format!("{{{a}\"x\":{x},{b}\"type\"{a}:\"{kind}\"{b}}}"))
}

/// The text of a list, with anything beside its plugins.
fn list() -> impl Strategy<Value = String> {
    let separated = prop::collection::vec((space(), plugin(), space()), 1..5);
    (separated, json(), space()).prop_map(|(plugins, x, s)| {
        let plugins: Vec<String> = plugins.iter().map(|(a, p, b)| format!("{a}{p}{b}")).collect();
        let plugins = plugins.join(",");
        let x = format!("{s}{VERSION}\"x\":{x}{s}");
        format!("{s}{{{x},\"plugins\"{s}:{s}[{plugins}]{s},\"name\":\"n\"}}{s}")
    })
}

proptest! {
    #[test]
    fn every_byte_of_others_stays(text in list()) {
        let with = added(&text);
        let at = with.find(ENTRY).expect("there");
        let (before, after) = (&with[..at], &with[at + ENTRY.len()..]);
        // Nothing but a comma and blank space came with it.
        let head = before.trim_end().strip_suffix(',').expect("a comma");
        prop_assert_eq!([head, after].concat(), text.clone());
        prop_assert_eq!(add(&with, ENTRY, Present::IsReplaced).expect("a list"), None);
        prop_assert_eq!(remove(&with).expect("a list"), Some(text));
        let value: Value = serde_json::from_str(&with).expect("JSON");
        let last = value["plugins"].as_array().and_then(|plugins| plugins.last());
        prop_assert_eq!(last.and_then(|plugin| plugin["type"].as_str()), Some(NAME));
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}") {
        prop_assert!(add(&text, ENTRY, Present::Stays).is_err());
        prop_assert!(remove(&text).is_err());
        prop_assert!(wrap(&text, ENTRY).is_err());
    }
}
