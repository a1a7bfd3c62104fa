//! Manifests of any bytes: each is read or refused with a place and a reason; nothing panics, and
//! what was read makes a cluster.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice::cluster::{AddressPlan, Cluster};
use sluice::manifest::load_bytes;

fuzz_target!(|bytes: &[u8]| {
    let loaded = load_bytes(bytes);
    for problem in &loaded.errors {
        assert!(!problem.fault.reason.is_empty(), "an error without a reason");
    }
    let objects = loaded.objects.iter().map(|placed| &placed.object);
    let _ = Cluster::from_objects(objects, &mut AddressPlan::default());
});
