//! Why a question is answered as it is: the rule that decided, and the rules that nearly did.
//!
//! Built on the [`crate::oracle`], so an explanation can be held against the tables. The data is for
//! JSON; [`Explanation`] displays as plain sentences.

mod describe;
mod mismatch;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub use describe::{pods_in_words, rule_in_words};
pub use mismatch::Mismatch;

use crate::model::{
    Action, Answer, Backend, DecidedBy, Direction, PodName, PolicyName, Question, Rule, RuleName,
    ServiceName, Tier, World, direction_label,
};
use crate::oracle;

/// Why a [`Question`] is answered as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked.
    pub question: Question,
    /// What is answered.
    pub answer: Answer,
    /// Who has the address at the other end.
    pub remote: Remote,
    /// The policies that apply to the pod in this direction, in the order of evaluation.
    pub policies: Vec<(Tier, PolicyName)>,
    /// The rule that decided, in words: "allows TCP 443 to 10.0.0.0/8".
    pub rule: Option<String>,
    /// Behind a service's address: where it leads, and what is answered to each of these. Policy looks
    /// at nothing else of a service.
    pub backends: Vec<BackendAnswer>,
    /// Where the answer is deny: the rules that came up before it was given and would have matched but
    /// for their peers alone or their ports alone, in the order of evaluation.
    pub near_misses: Vec<NearMiss>,
    /// Where the answer is deny: how many further rules came up, neither of whose parts matches.
    pub far_misses: usize,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// A pod.
    Pod(PodName),
    /// A node that has this pod with host network on it: no selector matches such a pod.
    HostNetwork(PodName),
    /// Services: the address and port are theirs, and the cluster translates them.
    Service(Vec<ServiceName>),
    /// No pod.
    NoPod,
}

/// A place that a service leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendAnswer {
    /// The place.
    pub backend: Backend,
    /// The pod there.
    pub pod: Option<PodName>,
    /// What is answered about it alone.
    pub answer: Answer,
}

/// A rule that would have matched but for one of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleName,
    /// The rule in words: "allows TCP 443 to 10.0.0.0/8".
    pub says: String,
    /// Why it does not match: one reason for each of its peers, or for each of its ports; the closest
    /// first.
    pub because: Vec<Mismatch>,
}

/// Explains the specification's answer to `question`.
pub fn explain(world: &World, question: &Question) -> Explanation {
    let answer = oracle::judge(world, question);
    let (remote, backends) = match oracle::service(world, question) {
        // The pod's own address is that before it is a service's.
        Some((names, backends)) if !oracle::is_own_address(world, question) => {
            let answers = backends.iter().map(|backend| backend_answer(world, question, backend));
            (Remote::Service(names), answers.collect())
        }
        _ => (remote(world, question.remote), Vec::new()),
    };
    // The rules meet the backends. Of several the first is looked at that is answered like the whole.
    let met = backends.iter().find(|b: &&BackendAnswer| b.answer.allowed == answer.allowed);
    let met = met.map(|met| oracle::about(question, &met.backend));
    let about = met.as_ref().unwrap_or(question);
    let mut explanation = Explanation {
        remote,
        backends,
        policies: policies(world, question),
        rule: deciding_rule(world, question, &answer),
        near_misses: Vec::new(),
        far_misses: 0,
        question: question.clone(),
        answer,
    };
    let has_nothing_to_match = matches!(explanation.remote, Remote::Service(_)) && met.is_none();
    if !explanation.answer.allowed && !has_nothing_to_match {
        for (name, rule) in passed_over(world, about, explanation.answer.isolated) {
            match near_miss(world, about, name, rule) {
                Some(near) => explanation.near_misses.push(near),
                None => explanation.far_misses += 1,
            }
        }
    }
    explanation
}

fn backend_answer(world: &World, question: &Question, backend: &Backend) -> BackendAnswer {
    BackendAnswer {
        backend: *backend,
        pod: oracle::holder(world, backend.address).map(|(name, _)| name.clone()),
        answer: oracle::judge_backend(world, question, backend),
    }
}

fn remote(world: &World, address: IpAddr) -> Remote {
    if let Some((name, _)) = oracle::holder(world, address) {
        return Remote::Pod(name.clone());
    }
    let host = world.pods.iter().find(|(_, p)| p.host_network && p.addresses.contains(&address));
    host.map_or(Remote::NoPod, |(name, _)| Remote::HostNetwork(name.clone()))
}

fn policies(world: &World, question: &Question) -> Vec<(Tier, PolicyName)> {
    let of_tier = |tier| {
        let governing = oracle::governing(world, question, tier).into_iter();
        governing.map(move |(name, _)| (tier, name.clone()))
    };
    [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline].into_iter().flat_map(of_tier).collect()
}

fn deciding_rule(world: &World, question: &Question, answer: &Answer) -> Option<String> {
    let DecidedBy::Rule(name) = &answer.decided_by else { return None };
    let policy = world.policies.get(&name.policy)?;
    let rule = oracle::rules(policy, name.direction).get(name.index)?;
    Some(rule_in_words(rule, question.direction))
}

/// The rules that could have let the packet pass and did not match, of the tiers that were asked, up
/// to the rule that ended its tier.
fn passed_over<'w>(
    world: &'w World,
    question: &Question,
    isolated: bool,
) -> Vec<(RuleName, &'w Rule)> {
    let later = if isolated { Tier::NetworkPolicy } else { Tier::Baseline };
    let mut found = Vec::new();
    for tier in [Tier::Admin, later] {
        let ordered =
            oracle::governing(world, question, tier).into_iter().flat_map(|(name, policy)| {
                let rules = oracle::rules(policy, question.direction).iter().enumerate();
                rules.map(|(i, rule)| (oracle::rule_name(name, question.direction, i), rule))
            });
        let mut ended = None;
        for (name, rule) in ordered {
            if oracle::rule_matches(world, question, rule) {
                ended = Some(rule.action);
                break;
            }
            if rule.action != Action::Deny {
                found.push((name, rule));
            }
        }
        if ended == Some(Action::Deny) {
            break;
        }
    }
    found
}

fn near_miss(world: &World, question: &Question, name: RuleName, rule: &Rule) -> Option<NearMiss> {
    let peers = oracle::peers_match(world, question, &rule.peers);
    let ports = oracle::ports_match(world, question, &rule.ports);
    let mut because = match (peers, ports) {
        (false, true) => mismatch::of_peers(world, question, &rule.peers),
        (true, false) => mismatch::of_ports(world, question, &rule.ports),
        _ => return None,
    };
    because.sort();
    Some(NearMiss { rule: name, says: rule_in_words(rule, question.direction), because })
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { question, answer, .. } = self;
        let verdict = if answer.allowed { "allowed" } else { "denied" };
        let direction = direction_label(question.direction);
        let preposition = describe::preposition(question.direction);
        write!(f, "{direction} of {} {preposition} {}", question.pod, question.remote)?;
        match &self.remote {
            Remote::Pod(pod) => write!(f, " ({pod})")?,
            Remote::HostNetwork(pod) => write!(f, " (node of {pod}, which has host network)")?,
            Remote::Service(names) => write!(
                f,
                " (the address of service {}, of which policy looks at the backends)",
                describe::list(names)
            )?,
            Remote::NoPod => {}
        }
        let packet = describe::packet(question.protocol, question.port);
        write!(f, ", {packet}: {verdict}, {}", self.reason())?;
        for backend in &self.backends {
            write!(f, "\n  {backend}")?;
        }
        for near in &self.near_misses {
            write!(f, "\n  {near}")?;
        }
        match self.far_misses {
            0 => Ok(()),
            1 => write!(f, "\n  1 further rule matches neither the peer nor the port."),
            n => write!(f, "\n  {n} further rules match neither the peer nor the port."),
        }
    }
}

impl Explanation {
    /// The sentence's second half.
    fn reason(&self) -> String {
        let pod = &self.question.pod;
        let direction = direction_label(self.question.direction);
        match (&self.answer.decided_by, &self.rule) {
            (DecidedBy::DefaultAllow, _) if self.policies.is_empty() => {
                format!("because no policy applies to {pod} for {direction} (default-allow).")
            }
            (DecidedBy::DefaultAllow, _) => format!(
                "because no NetworkPolicy isolates {pod} for {direction}, and no rule of {} \
                 decides (default-allow).",
                self.names(|_| true)
            ),
            (DecidedBy::DefaultDeny, _) if self.leads_nowhere() => {
                "because the service has no backend (default-deny).".to_owned()
            }
            (DecidedBy::MixedBackends, _) => {
                "because policy allows some backends of the service and \
                 not others, and which of them a connection gets is not known here: the service is \
                 closed (mixed-backends)."
                    .to_owned()
            }
            (DecidedBy::DefaultDeny, _) => format!(
                "because {pod} is isolated for {direction} by {}, and {} (default-deny).",
                self.names(|tier| tier == Tier::NetworkPolicy),
                match self.near_misses.len() + self.far_misses {
                    0 => "there is no rule that allows anything",
                    _ => "no rule allows this",
                }
            ),
            (DecidedBy::Host, _) if self.question.direction == Direction::Egress => {
                "because it goes to the pod's own node, which the agent lets out (host).".to_owned()
            }
            (DecidedBy::Host, _) => "because the pod's own node sent it (host).".to_owned(),
            (DecidedBy::OwnAddress, _) => "because a pod always reaches itself (self).".to_owned(),
            (DecidedBy::Rule(rule), Some(words)) => format!("because {rule} {words}."),
            (DecidedBy::Rule(rule), None) => format!("because of {rule}."),
        }
    }

    /// It is about a service that leads nowhere.
    const fn leads_nowhere(&self) -> bool {
        matches!(self.remote, Remote::Service(_)) && self.backends.is_empty()
    }

    fn names(&self, wanted: impl Fn(Tier) -> bool) -> String {
        let names = self.policies.iter().filter(|(tier, _)| wanted(*tier));
        describe::list(&names.map(|(_, name)| name).collect::<Vec<_>>())
    }
}

impl fmt::Display for BackendAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, pod, answer } = self;
        write!(f, "backend {}", SocketAddr::new(backend.address, backend.port))?;
        if let Some(pod) = pod {
            write!(f, " ({pod})")?;
        }
        let verdict = if answer.allowed { "allowed" } else { "denied" };
        write!(f, ": {verdict}, {}", answer.decided_by)
    }
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, but {}.", self.rule, self.says, describe::list(&self.because))
    }
}

#[cfg(test)]
mod tests;
