use sluice_common::abi::Counter;
use sluice_policy::model::{PolicyKind, PolicyName, RuleName};

use super::*;
use crate::source::ObjectState;
use crate::status::TableStatus;

fn report() -> Report {
    let endpoint = EndpointStatus {
        pod: "x/a".into(),
        ingress: true,
        state: EnforcementState::Enforced,
        ..EndpointStatus::default()
    };
    let unenforced = EndpointStatus {
        pod: "x/b".into(),
        cause: Some("no-address".into()),
        ..EndpointStatus::default()
    };
    let counted = Snapshot::from([
        ((Direction::Ingress, Reason::Allowed), Counter { packets: 3, bytes: 300 }),
        ((Direction::Ingress, Reason::Established), Counter { packets: 4, bytes: 400 }),
        ((Direction::Ingress, Reason::DefaultDeny), Counter { packets: 5, bytes: 500 }),
        ((Direction::Ingress, Reason::Control), Counter { packets: 8, bytes: 800 }),
        ((Direction::Ingress, Reason::EventLost), Counter { packets: 9, bytes: 900 }),
    ]);
    let policy = PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some("x".into()),
        name: "p".into(),
    };
    Report {
        endpoints: vec![(endpoint, counted), (unenforced, Snapshot::new())],
        rules: vec![RuleReport {
            rule: RuleName { policy, direction: Direction::Ingress, index: 2 },
            verdict: "allow",
            packets: 3,
        }],
        tables: vec![
            TableStatus { table: "peers".into(), used: 7, capacity: 8, age_seconds: None },
            TableStatus { table: "flows".into(), used: 3, capacity: 9, age_seconds: Some(11) },
        ],
        objects: [(("NetworkPolicy", ObjectState::Closed), 1)].into(),
        unresolved_ports: 4,
        watches: [("Pod".to_owned(), true)].into(),
        last_heal_corrections: 6,
        timings: Default::default(),
        learned_connections: 2,
    }
}

/// The samples of a text, without what describes them and without histograms' buckets.
fn samples(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#') && !line.contains("_seconds")).collect()
}

#[test]
fn both_formats_have_the_same_samples() {
    let expected = [
        r#"sluice_drop_packets_total{namespace="x",pod="a",direction="ingress",reason="default-deny"} 5"#,
        r#"sluice_drop_bytes_total{namespace="x",pod="a",direction="ingress",reason="default-deny"} 500"#,
        r#"sluice_allow_packets_total{namespace="x",pod="a",direction="ingress"} 7"#,
        r#"sluice_noted_packets_total{namespace="x",pod="a",direction="ingress",reason="event-lost"} 9"#,
        r#"sluice_rule_packets_total{kind="NetworkPolicy",namespace="x",name="p",direction="ingress",rule="2",verdict="allow"} 3"#,
        r#"sluice_endpoints{state="enforced"} 1"#,
        r#"sluice_endpoints{state="not-isolated"} 0"#,
        r#"sluice_endpoints{state="not-enforced"} 1"#,
        r#"sluice_endpoints{state="closed"} 0"#,
        r#"sluice_unenforced_endpoints{reason="pending"} 0"#,
        r#"sluice_unenforced_endpoints{reason="no-address"} 1"#,
        r#"sluice_unenforced_endpoints{reason="address-not-found"} 0"#,
        r#"sluice_unenforced_endpoints{reason="no-host-interface"} 0"#,
        r#"sluice_unenforced_endpoints{reason="address-taken"} 0"#,
        r#"sluice_unenforced_endpoints{reason="address-contested"} 0"#,
        r#"sluice_unenforced_endpoints{reason="no-slot"} 0"#,
        r#"sluice_unenforced_endpoints{reason="attach-failed"} 0"#,
        r#"sluice_unenforced_endpoints{reason="invalid-object"} 0"#,
        r#"sluice_objects{kind="NetworkPolicy",state="closed"} 1"#,
        r#"sluice_policy_warnings{reason="unresolved-named-port"} 4"#,
        r#"sluice_watch_connected{kind="Pod"} 1"#,
        r#"sluice_map_entries{map="peers"} 7"#,
        r#"sluice_map_entries{map="flows"} 3"#,
        r#"sluice_map_capacity{map="peers"} 8"#,
        r#"sluice_map_capacity{map="flows"} 9"#,
        "sluice_last_heal_corrections 6",
        "sluice_learned_connections_total 2",
        &format!(r#"sluice_build_info{{version="0.1.0",abi="{ABI_VERSION}"}} 1"#),
    ];
    for format in [Format::OpenMetrics, Format::Text] {
        assert_eq!(samples(&encode(report(), format)), expected);
    }
}

#[test]
fn what_was_counted_before_says_when() {
    let text = encode(report(), Format::Text);
    let ages = text.lines().filter(|line| line.starts_with("sluice_map_entries_age_seconds{"));
    assert_eq!(ages.collect::<Vec<_>>(), [r#"sluice_map_entries_age_seconds{map="flows"} 11"#]);
}

#[test]
fn each_format_describes_a_counter_and_an_info_in_its_own_way() {
    let described = |text: &str| -> Vec<String> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(str::to_owned).collect()
    };
    let open = encode(report(), Format::OpenMetrics);
    assert!(described(&open).contains(&"sluice_drop_packets counter".into()), "{open}");
    assert!(described(&open).contains(&"sluice_build info".into()), "{open}");
    assert!(open.ends_with("# EOF\n"));
    let text = encode(report(), Format::Text);
    assert!(described(&text).contains(&"sluice_drop_packets_total counter".into()), "{text}");
    assert!(described(&text).contains(&"sluice_build_info gauge".into()), "{text}");
    assert!(described(&text).contains(&"sluice_apply_duration_seconds histogram".into()), "{text}");
    assert!(!text.contains("EOF"));
}

#[test]
fn the_accept_header_chooses_the_format() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4";
    assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
    assert_eq!(Format::accepted("text/plain"), Format::Text);
    assert_eq!(Format::accepted(""), Format::Text);
}
