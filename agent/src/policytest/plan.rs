//! From tests and the objects beside them to states and probes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::ends;
use crate::cluster::{AddressPlan, Cluster, ObjectKey};
use crate::convert::policytest::{PolicyTest, ProbeLine, Step};
use crate::convert::{Fault, Item};
use crate::engine::Probe;
use crate::manifest::kinds::Kind;
use crate::manifest::{self, Object, Placed, Problem};

/// A test that is ready to run.
#[derive(Clone, Debug)]
pub struct PlannedTest {
    /// Its name.
    pub name: String,
    /// The file that it stands in.
    pub file: String,
    /// Its steps.
    pub steps: Vec<PlannedStep>,
}

/// A step that is ready to run.
#[derive(Clone, Debug)]
pub struct PlannedStep {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// What it removes first; some of it may be back in `cluster`, made anew.
    pub deleted: Vec<ObjectKey>,
    /// The cluster after its changes.
    pub cluster: Cluster,
    /// Its probes.
    pub probes: Vec<PlannedProbe>,
    /// Connections that the next step wants to find open and no probe of this one opens.
    pub openings: Vec<Probe>,
}

/// A probe that is ready to run.
#[derive(Clone, Debug)]
pub struct PlannedProbe {
    /// As written.
    pub line: ProbeLine,
    /// As run.
    pub probe: Probe,
}

/// Plans every test among the objects; all other objects are the cluster that each starts from.
///
/// # Errors
/// Everything that is wrong with any test.
pub fn plan(objects: &[Placed]) -> Result<Vec<PlannedTest>, Vec<Problem>> {
    let base: BTreeMap<ObjectKey, Object> = objects
        .iter()
        .filter(|placed| !matches!(placed.object.item, Item::PolicyTest(_)))
        .map(|placed| (placed.object.key.clone(), placed.object.clone()))
        .collect();
    let mut tests = Vec::new();
    let mut problems = Vec::new();
    for placed in objects {
        if let Item::PolicyTest(test) = &placed.object.item {
            match plan_test(test, placed, base.clone()) {
                Ok(test) => tests.push(test),
                Err(found) => problems.extend(found),
            }
        }
    }
    if problems.is_empty() { Ok(tests) } else { Err(problems) }
}

fn plan_test(
    test: &PolicyTest,
    placed: &Placed,
    mut objects: BTreeMap<ObjectKey, Object>,
) -> Result<PlannedTest, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut addresses = AddressPlan::default();
    let mut steps: Vec<PlannedStep> = Vec::new();
    for (i, step) in test.steps.iter().enumerate() {
        let field = format!("steps[{i}]");
        let mut faults = change(&field, step, &placed.directory, &mut objects, &mut problems);
        match Cluster::from_objects(objects.values(), &mut addresses) {
            Ok(cluster) => {
                let probes = plan_probes(&field, step, &cluster, &mut faults);
                steps.push(PlannedStep {
                    name: step.name.clone(),
                    deleted: step.delete.clone(),
                    cluster,
                    probes,
                    openings: Vec::new(),
                });
            }
            Err(error) => faults.push(Fault { field, reason: error.to_string() }),
        }
        problems.extend(faults.into_iter().map(|fault| problem(placed, fault)));
    }
    if problems.is_empty() {
        problems.extend(add_openings(&mut steps, placed));
    }
    match problems.is_empty() {
        true => Ok(PlannedTest { name: test.name.clone(), file: placed.place.file.clone(), steps }),
        false => Err(problems),
    }
}

fn problem(placed: &Placed, fault: Fault) -> Problem {
    let place = Some(placed.place_of(&fault.field));
    Problem { place, object: placed.object.key.to_string(), fault }
}

/// Deletes, then applies, as the step says.
fn change(
    field: &str,
    step: &Step,
    directory: &Path,
    objects: &mut BTreeMap<ObjectKey, Object>,
    problems: &mut Vec<Problem>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (i, key) in step.delete.iter().enumerate() {
        if objects.remove(key).is_none() {
            let reason = format!("there is no {key}");
            faults.push(Fault { field: format!("{field}.delete[{i}]"), reason });
        }
        if key.kind == Kind::Namespace.as_str() {
            // What is in a namespace goes with it.
            objects.retain(|other, _| other.namespace != key.name);
        }
    }
    for file in &step.apply_files {
        let loaded = manifest::load(&[directory.join(file)]);
        problems.extend(loaded.errors);
        let applied = loaded.objects.into_iter().map(|placed| placed.object);
        objects.extend(
            applied
                .filter(|object| object.key.kind != Kind::PolicyTest.as_str())
                .map(|object| (object.key.clone(), object)),
        );
    }
    objects.extend(step.apply.iter().map(|object| (object.key.clone(), object.clone())));
    faults
}

fn plan_probes(
    field: &str,
    step: &Step,
    cluster: &Cluster,
    faults: &mut Vec<Fault>,
) -> Vec<PlannedProbe> {
    let mut planned = Vec::new();
    for (i, line) in step.probes.iter().enumerate() {
        match ends::resolve(cluster, line) {
            Ok(probe) => planned.push(PlannedProbe { line: line.clone(), probe }),
            Err(errors) => faults.extend(errors.into_iter().map(|(end, error)| Fault {
                field: format!("{field}.probes[{i}].{end}"),
                reason: error.to_string(),
            })),
        }
    }
    planned
}

/// An established connection is opened in the step before, whether a probe of that step opens it or
/// not; its ends must be there by then.
fn add_openings(steps: &mut [PlannedStep], placed: &Placed) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut fault =
        |field: String, reason: String| problems.push(problem(placed, Fault { field, reason }));
    for i in 0..steps.len() {
        let (before, now) = steps.split_at_mut(i);
        let established = now[0].probes.iter().enumerate().filter(|(_, p)| p.probe.established);
        let mut openings = BTreeSet::new();
        for (j, planned) in established {
            let field = format!("steps[{i}].probes[{j}].established");
            let Some(before) = before.last() else {
                fault(field, "there is no step before this one".into());
                continue;
            };
            match ends::resolve(&before.cluster, &planned.line) {
                Ok(earlier) if same_ends(&earlier, &planned.probe) => {
                    if !before.probes.iter().any(|p| same_connection(&p.probe, &earlier)) {
                        openings.insert(Probe { established: false, ..earlier });
                    }
                }
                _ => fault(field, "its ends are not the same in the step before".into()),
            }
        }
        if let Some(before) = before.last_mut() {
            before.openings.extend(openings);
        }
    }
    problems
}

fn same_ends(a: &Probe, b: &Probe) -> bool {
    a.from == b.from && a.to == b.to
}

/// True if two probes are about one connection.
pub(super) fn same_connection(a: &Probe, b: &Probe) -> bool {
    same_ends(a, b) && (a.protocol, a.port, a.family) == (b.protocol, b.port, b.family)
}
