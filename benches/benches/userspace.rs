//! Compile and diff. The budgets stand in DESIGN.md's table; nothing here asserts a time.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sluice_benches::worlds::{
    PeerKind, cluster, cluster_pod, distinct_peers, one_tenant, overlapping, with_one_peer_more,
};
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::{Compiler, compile};
use sluice_policy::diff::{KernelState, diff};
use sluice_policy::model::{Change, World};

/// A compiler and the kernel that holds its tables.
fn loaded(world: &World) -> (Compiler, KernelState) {
    let compiler = compile(world, Capacity::default());
    assert_eq!(compiler.overflows(), [], "the bench's world fits");
    let mut kernel = KernelState { generation: 1, ..KernelState::default() };
    for op in diff(&kernel.clone(), compiler.tables(), None) {
        kernel.apply(&op);
    }
    (compiler, kernel)
}

/// Change in, operations out and noted: all that user space does for it, but the writes.
fn enforce(compiler: &mut Compiler, kernel: &mut KernelState, change: Change) {
    let touched = compiler.apply([change]);
    let ops = diff(kernel, compiler.tables(), Some(&touched));
    assert!(!ops.is_empty(), "the bench's change changes something");
    ops.iter().for_each(|op| kernel.apply(op));
    black_box(ops);
}

fn compile_all(c: &mut Criterion) {
    let world = overlapping(1000, 100);
    c.bench_function("compile/1000-policies-100-pods", |b| {
        b.iter_with_large_drop(|| compile(&world, Capacity::default()));
    });
}

fn first_load(c: &mut Criterion) {
    for (name, kind) in [
        ("compile/first-load-100x10x100", PeerKind::Blocks),
        ("compile/first-load-100x10x100-selectors", PeerKind::Pods),
    ] {
        let world = distinct_peers(100, 10, 100, kind);
        c.bench_function(name, |b| {
            b.iter_with_large_drop(|| compile(&world, Capacity::default()));
        });
    }
    let compiler = compile(&distinct_peers(100, 10, 100, PeerKind::Blocks), Capacity::default());
    c.bench_function("diff/first-load-100x10x100", |b| {
        b.iter_with_large_drop(|| diff(&KernelState::default(), compiler.tables(), None));
    });
}

fn one_peer(c: &mut Criterion) {
    for (name, kind) in [
        ("diff/one-peer-100x10x100", PeerKind::Blocks),
        ("diff/one-peer-100x10x100-selectors", PeerKind::Pods),
    ] {
        let world = distinct_peers(100, 10, 100, kind);
        let (mut compiler, mut kernel) = loaded(&world);
        let mut is_added = false;
        c.bench_function(name, |b| {
            b.iter_batched(
                || {
                    is_added = !is_added;
                    // Peer 500 exists and is in another policy's rule.
                    with_one_peer_more(&world, kind, is_added.then_some(500))
                },
                |change| enforce(&mut compiler, &mut kernel, change),
                BatchSize::PerIteration,
            );
        });
    }
}

fn one_pod(c: &mut Criterion) {
    for pods in [1_000, 100_000] {
        let (mut compiler, mut kernel) = loaded(&cluster(pods, 110));
        let mut is_relabelled = false;
        c.bench_function(&format!("event/one-pod-at-{pods}"), |b| {
            b.iter_batched(
                || {
                    is_relabelled = !is_relabelled;
                    // From application 2 (front) to 3 (back): its class changes.
                    let (name, pod) = cluster_pod(552, is_relabelled);
                    Change::Pod(name, Some(pod))
                },
                |change| enforce(&mut compiler, &mut kernel, change),
                BatchSize::PerIteration,
            );
        });
    }
}

/// A pod's event while a policy is closed for want of room, as it may stay for days.
fn one_pod_beside_a_closed_set(c: &mut Criterion) {
    let mut compiler = compile(&one_tenant(17_000), Capacity::default());
    assert_eq!(compiler.overflows().len(), 1, "the bench's world does not fit");
    let mut is_relabelled = false;
    c.bench_function("event/one-pod-beside-17000-rules-closed", |b| {
        b.iter_batched(
            || {
                is_relabelled = !is_relabelled;
                let (name, pod) = cluster_pod(552, is_relabelled);
                Change::Pod(name, Some(pod))
            },
            |change| black_box(compiler.apply([change])),
            BatchSize::PerIteration,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = compile_all, first_load, one_peer, one_pod, one_pod_beside_a_closed_set
}
criterion_main!(benches);
