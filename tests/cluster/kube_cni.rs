//! The CNI plugin with an agent that watches a real API server. Needs root, and the API server's programs;
//! `cargo xtask test cluster` runs it.

use std::net::Ipv4Addr;

use serde_json::json;
use sluice::status::EnforcementState;
use sluice_tests::apiserver::{cluster, pod};
use sluice_tests::cni::{Runtime, result};
use sluice_tests::node::NODE;

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");

const LATE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 7);

#[test]
fn a_pod_is_not_taken_for_another_of_its_name_nor_a_static_one_for_its_mirror() {
    let Some((mut machine, server)) = cluster(BINARY) else { return };
    let _agent = machine.start_agent();
    machine.add_pod("late", LATE);
    let runtime = Runtime::new(&machine, BINARY);
    let add = |uid: &str, timeout_seconds: u64| {
        let text = runtime.configuration(timeout_seconds, &result(LATE));
        runtime.call(&machine, "ADD", "late", uid, &text)
    };
    let make = |annotations: serde_json::Value| {
        let mut object = pod("late", NODE, LATE, "server");
        object.as_object_mut().expect("an object").remove("status");
        object["metadata"]["annotations"] = annotations;
        server.apply(object);
        let made = server.get("Pod", "x/late").expect("made");
        made["metadata"]["uid"].as_str().expect("a UID").to_owned()
    };

    let uid = make(json!({}));
    let (code, details) = add("of-another", 1).error();
    assert_eq!(code, 11);
    assert!(details.contains("the UID of-another"), "{details}");
    let answer = add(&uid, 30);
    assert!(answer.ok, "{answer:?}");
    assert_eq!(machine.endpoint("x/late").state, EnforcementState::Enforced);

    server.delete("Pod", "x/late");
    // The kubelet knows it from a file, and makes an object for others to see.
    let mirror = make(json!({
        "kubernetes.io/config.hash": "of-the-file",
        "kubernetes.io/config.mirror": "of-the-file",
    }));
    assert!(add("of-the-file", 30).ok);
    let (_, details) = add(&mirror, 1).error();
    assert!(details.contains(&mirror), "{details}");
}
