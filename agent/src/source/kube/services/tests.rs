//! What a service is to policy, held against what kube-proxy does with the same objects (its
//! `serviceport.go`, `topology.go` and `endpointslicecache.go`).

use serde_json::{Value, json};

use super::*;
use crate::convert::Item;
use crate::convert::arrival;
use crate::manifest::kinds::Kind;

fn name() -> model::ServiceName {
    model::ServiceName { namespace: "x".into(), name: "web".into() }
}

/// The service `web` with one ClusterIP and one port, changed by what is given.
fn service(spec: Value, ingress: Value, labels: Value) -> Service {
    let mut whole = json!({
        "clusterIPs": ["10.96.0.1"], "ports": [{"name": "h", "port": 80, "targetPort": 8080}],
    });
    whole.as_object_mut().expect("an object").extend(spec.as_object().expect("one").clone());
    let value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "x", "labels": labels},
        "spec": whole, "status": {"loadBalancer": {"ingress": ingress}},
    });
    let read = arrival::read(Kind::Service, &value);
    assert_eq!(read.faults, []);
    let Some(Item::Service(service)) = read.item else { panic!("a service") };
    service
}

fn slice(family: &str, port: &str, endpoints: Value) -> EndpointSlice {
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "web-1", "namespace": "x", "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": family, "ports": [{"name": port, "port": 8080}], "endpoints": endpoints,
    });
    let read = arrival::read(Kind::EndpointSlice, &value);
    assert_eq!(read.faults, []);
    let Some(Item::EndpointSlice(slice)) = read.item else { panic!("a slice") };
    slice
}

/// What policy sees.
fn seen(service: Service, slices: Vec<EndpointSlice>) -> model::Service {
    let mut services = Services::default();
    services.put(service, true);
    for (i, slice) in slices.into_iter().enumerate() {
        services.put_slice(&format!("x/web-{i}"), slice, true);
    }
    services.resolved(&name()).expect("it is there")
}

fn addresses(spec: Value, ingress: Value, labels: Value) -> Vec<String> {
    let seen = seen(service(spec, ingress, labels), Vec::new());
    seen.addresses.iter().map(ToString::to_string).collect()
}

fn backends(service: Service, slices: Vec<EndpointSlice>) -> Vec<String> {
    let backends = seen(service, slices).ports.remove(0).backends;
    backends.iter().map(|backend| backend.address.to_string()).collect()
}

/// An endpoint with its conditions; `Null` is one that is not set.
fn endpoint(address: &str, ready: Value, serving: Value, terminating: Value) -> Value {
    let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
    json!({"addresses": [address], "conditions": conditions, "nodeName": "n"})
}

#[test]
fn its_addresses_are_those_that_kube_proxy_translates() {
    let own = "10.96.0.1";
    let none = || json!({});
    let balanced = json!([
        {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "VIP"},
        {"ip": "192.0.2.3", "ipMode": "Proxy"}, {"hostname": "balancer"}, {"ip": ""},
    ]);
    assert_eq!(addresses(none(), balanced, none()), [own, "192.0.2.1", "192.0.2.2"]);
    let external = || json!({"externalIPs": ["198.51.100.007", "2001:db8::1"]});
    assert_eq!(addresses(external(), json!([]), none()), [own, "198.51.100.7", "2001:db8::1"]);
    let both = json!({"clusterIPs": ["10.96.0.1", "fd00::1"], "clusterIP": "10.96.0.1"});
    assert_eq!(addresses(both, json!([]), none()), [own, "fd00::1"]);
    // Of a second ServiceCIDR: no range is assumed.
    let other = json!({"clusterIPs": ["172.20.0.9"]});
    assert_eq!(addresses(other, json!([]), none()), ["172.20.0.9"]);
}

#[test]
fn what_kube_proxy_leaves_alone_has_no_addresses_whatever_else_it_says() {
    let external = |spec: Value| {
        let mut spec = spec;
        spec["externalIPs"] = json!(["198.51.100.7"]);
        spec
    };
    let balanced = || json!([{"ip": "192.0.2.1"}]);
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"clusterIPs": [], "clusterIP": ""}),
        json!({"clusterIPs": [], "type": "ExternalName", "externalName": "a.example"}),
    ] {
        let found = addresses(external(spec.clone()), balanced(), json!({}));
        assert_eq!(found, Vec::<String>::new(), "{spec}");
    }
    for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
        let found = addresses(external(json!({})), balanced(), json!({label: ""}));
        assert_eq!(found, Vec::<String>::new(), "{label}");
    }
}

#[test]
fn endpoints_count_by_their_conditions_as_kube_proxy_reads_them() {
    let (unset, yes, no) = (|| Value::Null, || json!(true), || json!(false));
    // Alone, and beside one that is ready.
    let cases = [
        (unset(), unset(), unset(), true, true),
        (yes(), yes(), no(), true, true),
        (no(), yes(), no(), false, false),
        (no(), no(), no(), false, false),
        (no(), yes(), yes(), true, false),
        (no(), unset(), yes(), true, false),
        (no(), no(), yes(), false, false),
        // As with `publishNotReadyAddresses`.
        (yes(), yes(), yes(), true, true),
        (yes(), no(), yes(), true, true),
        (unset(), no(), yes(), true, true),
    ];
    for (ready, serving, terminating, alone, beside) in cases {
        let case = format!("{ready} {serving} {terminating}");
        let of_case = endpoint("10.0.0.1", ready, serving, terminating);
        let service = || service(json!({}), json!([]), json!({}));
        let found = backends(service(), vec![slice("IPv4", "h", json!([of_case.clone()]))]);
        assert_eq!(!found.is_empty(), alone, "{case}");
        let good = endpoint("10.0.0.2", yes(), yes(), no());
        let found = backends(service(), vec![slice("IPv4", "h", json!([of_case, good]))]);
        assert_eq!(found.len() == 2, beside, "{case}: {found:?}");
        assert_eq!(found.last().map(String::as_str), Some("10.0.0.2"), "{case}");
    }
}

#[test]
fn what_is_leaving_is_chosen_by_port_and_family_where_nothing_else_is_there() {
    let leaving =
        |address: &str| json!([endpoint(address, json!(false), json!(true), json!(true))]);
    let ready = |address: &str| json!([{"addresses": [address]}]);
    let slices = vec![
        slice("IPv4", "h", leaving("10.0.0.1")),
        slice("IPv4", "other", ready("10.0.0.2")),
        slice("IPv6", "h", ready("fd00::1")),
        slice("IPv6", "h", leaving("fd00::2")),
    ];
    let found = backends(service(json!({}), json!([]), json!({})), slices);
    assert_eq!(found, ["10.0.0.1", "fd00::1"]);
}

#[test]
fn where_a_node_may_choose_for_itself_both_what_is_ready_and_what_is_leaving_count() {
    let slices = || {
        let ready = endpoint("10.0.0.1", json!(true), json!(true), json!(false));
        let leaving = endpoint("10.0.0.2", json!(false), json!(true), json!(true));
        vec![slice("IPv4", "h", json!([ready, leaving]))]
    };
    let balanced = || json!([{"ip": "192.0.2.1"}]);
    let external = json!({"externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"]});
    for (spec, ingress, expected) in [
        (json!({}), json!([]), 1),
        (json!({"internalTrafficPolicy": "Cluster"}), balanced(), 1),
        (json!({"internalTrafficPolicy": "Local"}), json!([]), 2),
        (external, json!([]), 2),
        (json!({"externalTrafficPolicy": "Local"}), balanced(), 2),
        // Only node ports are concerned, which no pod's policy sees.
        (json!({"externalTrafficPolicy": "Local"}), json!([]), 1),
    ] {
        let found = backends(service(spec.clone(), ingress, json!({})), slices());
        assert_eq!(found.len(), expected, "{spec}: {found:?}");
    }
}

#[test]
fn what_only_narrows_or_orders_the_choice_changes_nothing() {
    let hinted = json!([
        {"addresses": ["10.0.0.1"], "zone": "a", "hints": {"forZones": [{"name": "a"}]}},
        {"addresses": ["10.0.0.2"], "zone": "b", "hints": {"forZones": [{"name": "b"}]}},
    ]);
    let slices = || vec![slice("IPv4", "h", hinted.clone())];
    let balanced = || json!([{"ip": "192.0.2.1"}]);
    let plain = seen(service(json!({}), balanced(), json!({})), slices());
    assert_eq!(plain.ports[0].backends.len(), 2);
    for spec in [
        json!({"sessionAffinity": "ClientIP"}),
        json!({"loadBalancerSourceRanges": ["203.0.113.0/24"], "type": "LoadBalancer"}),
        json!({"trafficDistribution": "PreferClose"}),
        json!({"allocateLoadBalancerNodePorts": false, "loadBalancerClass": "a.example/b"}),
    ] {
        assert_eq!(seen(service(spec.clone(), balanced(), json!({})), slices()), plain, "{spec}");
    }
}
