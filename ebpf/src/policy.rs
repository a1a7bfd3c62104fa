//! The policy tables, as a packet at one generation sees them.

use aya_ebpf::btf_maps::lpm_trie::Key;
use sluice_common::abi::{
    Address, CIDR_KEY_BITS, CidrKey, ClassId, Decision, DecisionKey, Endpoint, Hairpin, HairpinKey,
    RULE_DEFAULT, RULE_MIXED, RuleId, SetId, UNCLASSIFIED, Verdict, VipKey,
};
use sluice_common::decide::{Asked, Lookup, decide};
use sluice_common::reason::Reason;

use crate::maps;

/// The tables at a generation.
struct Tables {
    generation: u32,
}

impl Lookup for Tables {
    #[inline(always)]
    fn vip(&self, vip: &VipKey) -> ClassId {
        // SAFETY: as for `peer`.
        match unsafe { maps::VIPS.get(vip) } {
            Some(vip) => *vip.class.at(self.generation),
            None => UNCLASSIFIED,
        }
    }

    #[inline(always)]
    fn hairpin(&self, key: &HairpinKey) -> Hairpin {
        // SAFETY: as for `peer`.
        match unsafe { maps::HAIRPINS.get(key) } {
            Some(way) => *way.hairpin.at(self.generation),
            None => Hairpin::default(),
        }
    }

    #[inline(always)]
    fn peer(&self, address: &Address) -> ClassId {
        // SAFETY: the agent writes the element in place, and of its versions the one that is not read
        // here. It removes it, and gives its memory to another address, only after a grace period each
        // (`KernelMaps::apply`), so that no program run which found it is left.
        match unsafe { maps::PEERS.get(address) } {
            Some(peer) => *peer.class.at(self.generation),
            None => UNCLASSIFIED,
        }
    }

    #[inline(always)]
    fn cidr(&self, set: SetId, address: &Address) -> ClassId {
        // What the agent replaces or removes in a trie is freed after a grace period (the kernel's
        // doing), so that an element found here stays what it is.
        let key = Key::new(CIDR_KEY_BITS, CidrKey::new(set, *address));
        match maps::CIDRS.get(&key) {
            Some(class) => *class.at(self.generation),
            None => UNCLASSIFIED,
        }
    }

    #[inline(always)]
    fn decision(&self, set: SetId, class: ClassId, protocol: u8, port: u16) -> Decision {
        let key = Key::new(DecisionKey::BITS, DecisionKey::new(set, class, protocol, port));
        match maps::DECISIONS.get(&key) {
            Some(decision) => *decision.at(self.generation),
            None => Decision::default(),
        }
    }
}

/// What was decided about a packet or flow.
pub(crate) struct Judgement {
    /// The rule that decided, or [`RULE_DEFAULT`].
    pub(crate) rule: RuleId,
    /// The reason to drop it, if any.
    pub(crate) denied: Option<Reason>,
}

/// Judges a connection of an endpoint that is governed in its direction.
#[inline(always)]
pub(crate) fn judge(endpoint: &Endpoint, generation: u32, asked: &Asked) -> Judgement {
    let Some(decision) = decide(&Tables { generation }, endpoint, asked) else {
        return Judgement { rule: RULE_DEFAULT, denied: Some(Reason::Closed) };
    };
    let denied = if decision.verdict == Verdict::Allow as u32 {
        None
    } else if decision.verdict != Verdict::Deny as u32 {
        Some(Reason::Closed)
    } else if decision.rule == RULE_DEFAULT {
        Some(Reason::DefaultDeny)
    } else if decision.rule == RULE_MIXED {
        Some(Reason::MixedBackends)
    } else {
        Some(Reason::Denied)
    };
    Judgement { rule: decision.rule, denied }
}
