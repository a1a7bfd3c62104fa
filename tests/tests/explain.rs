//! Explanations of random questions tell the oracle's answer, and what they call a near miss is one:
//! if the one part that does not match matched everything, the rule would decide.

use sluice_policy::explain::{BackendAnswer, Explanation, NearMiss, Remote, explain};
use sluice_policy::model::{
    Action, DecidedBy, Direction, Peers, Policy, Ports, Question, Rule, World,
};
use sluice_policy::oracle::judge;
use sluice_tests::random;

#[test]
fn a_near_miss_decides_once_its_one_part_matches() {
    let mut near_misses = 0;
    for seed in 0..300 {
        let world = random::world(seed);
        for question in random::questions(&world, seed, 50) {
            let explanation = explain(&world, &question);
            assert_eq!(explanation.answer, judge(&world, &question), "seed {seed}: {question:?}");
            for near in &explanation.near_misses {
                near_misses += 1;
                let asked = behind_services(&question, &explanation);
                let results: Vec<_> = asked.iter().map(|q| check(&world, q, near)).collect();
                assert!(results.iter().any(Result::is_ok), "seed {seed}: {near} {results:?}");
            }
        }
    }
    assert!(near_misses > 1000, "only {near_misses} near misses: the worlds say too little");
}

/// The question itself, or, of a service's address, that about each backend which is denied.
fn behind_services(question: &Question, explanation: &Explanation) -> Vec<Question> {
    if !matches!(explanation.remote, Remote::Service(_)) {
        return vec![question.clone()];
    }
    let denied = explanation.backends.iter().filter(|backend| !backend.answer.allowed);
    let about = |at: &BackendAnswer| {
        let (remote, port) = (at.backend.address, at.backend.port);
        Question { remote, port, ..question.clone() }
    };
    denied.map(about).collect()
}

fn check(world: &World, question: &Question, near: &NearMiss) -> Result<(), &'static str> {
    if near.because.is_empty() {
        return Err("has no reason");
    }
    let any_peer = decides(world, question, near, |rule| rule.peers = Peers::Any);
    let any_port = decides(world, question, near, |rule| rule.ports = Ports::Any);
    match (any_peer, any_port) {
        (true, false) | (false, true) => Ok(()),
        (true, true) => Err("decides already"),
        (false, false) => Err("misses on both sides"),
    }
}

/// True if the rule decides after `open` has changed it. Its action is made to be allow: pass decides
/// nothing by itself.
fn decides(world: &World, question: &Question, near: &NearMiss, open: impl Fn(&mut Rule)) -> bool {
    let mut world = world.clone();
    let policy = world.policies.get_mut(&near.rule.policy).expect("the rule's policy");
    let rule = &mut rules(policy, question.direction)[near.rule.index];
    rule.action = Action::Allow;
    open(rule);
    judge(&world, question).decided_by == DecidedBy::Rule(near.rule.clone())
}

fn rules(policy: &mut Policy, direction: Direction) -> &mut Vec<Rule> {
    let rules = match direction {
        Direction::Ingress => &mut policy.ingress,
        Direction::Egress => &mut policy.egress,
    };
    rules.as_mut().expect("the policy applies in this direction")
}
