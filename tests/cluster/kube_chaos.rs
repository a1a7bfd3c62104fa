//! Many objects come and go, the API server too, and what is judged stays right all the while. Short by
//! default; `SLUICE_CHAOS=long` makes 1,000 policies and 5,000 pods. Needs root, and the API server's
//! programs; `cargo xtask test cluster` runs it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_tests::apiserver::{allow, cluster, pod};
use sluice_tests::node::Node;
use sluice_tests::traffic::{SHUT, Traffic};
use sluice_tests::truth::{TruthTable, apply_stranger};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");

/// For everything to be caught up with.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much of it.
struct Scale {
    policies: u16,
    pods: u16,
}

fn scale() -> Scale {
    match std::env::var("SLUICE_CHAOS").as_deref() {
        Ok("long") => Scale { policies: 1000, pods: 5000 },
        _ => Scale { policies: 100, pods: 500 },
    }
}

/// Lets pods of the server take a port of their own from some of the remote pods. None of them says
/// anything of [`SHUT`] or of the client, so the truth about both never changes.
fn policy(number: u16) -> Value {
    let port = 1000 + number;
    assert!(port != SHUT && port < 7000);
    allow(&policy_name(number), "server", &format!("remote-{}", number % 50), port)
}

fn policy_name(number: u16) -> String {
    format!("more-{number}")
}

fn remote_pod(number: u16) -> Value {
    let [high, low] = number.to_be_bytes();
    let address = Ipv4Addr::new(10, 10, high, low);
    pod(&pod_name(number), "node-2", address, &format!("remote-{}", number % 50))
}

fn pod_name(number: u16) -> String {
    format!("remote-{number}")
}

/// Addresses in the kernel's table of peers.
fn peers(machine: &Node) -> u64 {
    let status = machine.status();
    status.tables.iter().find(|table| table.table == "peers").expect("a table").used
}

fn until(what: &str, machine: &Node, holds: impl Fn(u64) -> bool) -> Duration {
    let begun = Instant::now();
    loop {
        let peers = peers(machine);
        if holds(peers) && machine.status().synced {
            return begun.elapsed();
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: {peers} peers: {:#?}\n{}",
            machine.status(),
            machine.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_is_judged_stays_right_while_objects_and_the_api_server_come_and_go() {
    let Some((mut machine, mut server)) = cluster(BINARY) else { return };
    apply_stranger(&mut machine, &server);
    let Scale { policies, pods } = scale();
    server.apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-2"}}));
    let agent = machine.start_agent();
    let before = peers(&machine);
    let (traffic, truth) = (Traffic::start(&machine), TruthTable::start(&machine));

    let begun = Instant::now();
    server.apply_all((0..policies).map(policy).collect());
    server.apply_all((0..pods).map(remote_pod).collect());
    println!("{policies} policies and {pods} pods made in {:?}", begun.elapsed());
    let took = until("every pod", &machine, |peers| peers == before + u64::from(pods));
    println!("all of them enforced {took:?} later");

    // Half of it goes while the API server goes too, and the agent in between.
    let half = |count: u16| (0..count).filter(|number| number % 2 == 0);
    server.delete_all("Pod", half(pods).map(|number| format!("x/{}", pod_name(number))).collect());
    server.stop_server();
    agent.kill();
    let _agent = machine.spawn_agent();
    server.start_server();
    let left = u64::from(pods) - half(pods).count() as u64;
    let took = until("half of the pods", &machine, |peers| peers == before + left);
    println!("a new agent with a new API server: half of the pods {took:?} after it was ready");

    let begun = Instant::now();
    let rest = (0..pods).filter(|number| number % 2 == 1);
    server.delete_all("Pod", rest.map(|number| format!("x/{}", pod_name(number))).collect());
    let names = (0..policies).map(|number| format!("x/{}", policy_name(number)));
    server.delete_all("NetworkPolicy", names.collect());
    println!("the rest deleted in {:?}", begun.elapsed());
    let took = until("what was there before", &machine, |peers| peers == before);
    println!("as before {took:?} later");
    traffic.check();
    truth.check();
    assert_eq!(machine.heal(), 0, "the kernel is as it should be");
}
