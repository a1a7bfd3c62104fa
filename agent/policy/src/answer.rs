//! Answers from the compiled tables, by the code that the kernel programs share.

use sluice_common::abi::{Address, Direction, SET_NONE, Verdict};
use sluice_common::decide::{Asked, decide};

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
    let slot = compiler.world().endpoints.get(pod).map(|local| local.slot).unwrap_or_default();
    let Some(endpoint) = compiler.tables().endpoints.get(&slot) else {
        return pass(DecidedBy::DefaultAllow);
    };
    let remote = Address::from(*remote);
    if endpoint.owns(&remote) {
        return pass(DecidedBy::OwnAddress);
    }
    if endpoint.set(*direction) == SET_NONE {
        return pass(DecidedBy::DefaultAllow);
    }
    let (direction, protocol, port) = (*direction, *protocol, *port);
    let asked = Asked { slot, direction, remote, protocol, port };
    let decision = decide(compiler.tables(), endpoint, &asked);
    Answer {
        allowed: decision.is_some_and(|decision| decision.verdict == Verdict::Allow as u32),
        isolated,
        decided_by: compiler.names().decided_by(decision.as_ref()),
    }
}
