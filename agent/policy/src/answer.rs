//! Answers from the compiled tables, by the code that the kernel programs share.

use sluice_common::abi::{Address, Direction, Endpoint, SET_NONE, Verdict};
use sluice_common::decide::decide;

use crate::compile::Compiler;
use crate::model::{Answer, DecidedBy, Question};

/// What the kernel would say.
pub fn answer(compiler: &Compiler, question: &Question) -> Answer {
    let Question { pod, direction, remote, protocol, port, from_own_host } = question;
    let isolated = compiler.is_isolated(pod, *direction);
    let pass = |decided_by| Answer { allowed: true, isolated, decided_by };
    if *from_own_host && *direction == Direction::Ingress {
        return pass(DecidedBy::Host);
    }
    let Some(endpoint) = endpoint(compiler, question) else {
        return pass(DecidedBy::DefaultAllow);
    };
    let remote = Address::from(*remote);
    if endpoint.owns(&remote) {
        return pass(DecidedBy::OwnAddress);
    }
    let set = endpoint.set(*direction);
    if set == SET_NONE {
        return pass(DecidedBy::DefaultAllow);
    }
    let decision = decide(compiler.tables(), set, &remote, *protocol, *port);
    Answer {
        allowed: decision.is_some_and(|decision| decision.verdict == Verdict::Allow as u32),
        isolated,
        decided_by: compiler.names().decided_by(decision.as_ref()),
    }
}

fn endpoint<'a>(compiler: &'a Compiler, question: &Question) -> Option<&'a Endpoint> {
    let local = compiler.world().endpoints.get(&question.pod)?;
    compiler.tables().endpoints.get(&local.slot)
}
