//! Closing sets that do not fit the tables, and opening them again; see [`crate::capacity`].
//!
//! To decide who is closed, all sets are opened and then closed one after another, the greatest first,
//! until the rest fits. That compiles the closed ones, which are great by nature, once each: 100 ms for
//! 17,000 rules. So it is done only when something more must be closed, or when asked for
//! ([`Compiler::reconsider`]). In between goes by what was noted when the sets were closed, in the
//! order of closing: how much room each gave back. A set is opened again if it and all that were closed
//! after it fit by that, as then it would not have been closed; and one that a change of its policies
//! touches is opened whatever was noted.

use std::collections::BTreeSet;

use crate::capacity::{Capacity, Overflow, Shortage, Table};
use crate::compile::Compiler;
use crate::emit::Output;
use crate::model::Direction;
use crate::sets::SetIndex;
use crate::settle::Work;
use crate::tables::Touched;

/// Entries of the tables that sets share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    peers: usize,
    vips: usize,
    cidrs: usize,
    decisions: usize,
    rules: usize,
}

impl Usage {
    /// The first table that is too small.
    fn shortage(&self, capacity: &Capacity) -> Option<Shortage> {
        let Self { peers, vips, cidrs, decisions, rules } = *self;
        let usage = [
            (Table::Peers, peers, capacity.peers),
            (Table::Vips, vips, capacity.vips),
            (Table::Cidrs, cidrs, capacity.cidrs),
            (Table::Decisions, decisions, capacity.decisions),
            (Table::Rules, rules, capacity.rules.saturating_sub(1)),
        ];
        let (table, needed, capacity) =
            usage.into_iter().find(|(_, needed, capacity)| needed > capacity)?;
        Some(Shortage { table, needed, capacity })
    }

    fn plus(self, other: Self) -> Self {
        self.with(other, usize::saturating_add)
    }

    fn minus(self, other: Self) -> Self {
        self.with(other, usize::saturating_sub)
    }

    fn with(self, other: Self, of: fn(usize, usize) -> usize) -> Self {
        Self {
            peers: of(self.peers, other.peers),
            vips: of(self.vips, other.vips),
            cidrs: of(self.cidrs, other.cidrs),
            decisions: of(self.decisions, other.decisions),
            rules: of(self.rules, other.rules),
        }
    }
}

/// The sets that are closed.
#[derive(Debug, Default)]
pub(crate) struct Closings {
    /// In the order of closing, with the room that each gave back.
    sets: Vec<(SetIndex, Usage)>,
    /// Something has changed since it was decided who is closed.
    is_old: bool,
}

impl Closings {
    /// The set is not closed any more.
    pub(crate) fn forget(&mut self, index: SetIndex) {
        self.sets.retain(|(closed, _)| *closed != index);
    }
}

impl Compiler {
    /// Decides anew who is closed for want of room, and says which table keys may have got another
    /// value. Then the tables are those that [`crate::compile::compile`] makes of this world, but for
    /// the numbers in them. Costs nothing while all fits, or nothing has changed.
    pub fn reconsider(&mut self) -> Touched {
        if self.closings.sets.is_empty() || !self.closings.is_old {
            return Touched::default();
        }
        let (mut work, mut output) = (Work::default(), Output::default());
        self.decide_closings(&mut work, &mut output);
        self.note_overflows();
        self.emit(output)
    }

    /// Closes sets until the rest fits, or opens those for which there is room again.
    pub(crate) fn fit(&mut self, work: &mut Work, output: &mut Output) {
        self.closings.is_old = true;
        if self.usage().shortage(&self.capacity).is_none() {
            let first = self.first_with_room();
            let fitting = self.closings.sets.split_off(first);
            for (index, _) in &fitting {
                self.open(*index, work);
            }
            if fitting.is_empty() {
                return;
            }
            self.settle(work, output);
        }
        if self.usage().shortage(&self.capacity).is_some() {
            self.decide_closings(work, output);
        }
    }

    /// The place in the order of closing from which on all sets fit, by what was noted.
    fn first_with_room(&self) -> usize {
        let mut usage = self.usage();
        let closed = self.closings.sets.iter().enumerate().rev();
        let fitting = closed.take_while(|(_, (index, room))| {
            usage = usage.plus(*room);
            // Not what they were then: all of them, and they are known.
            if self.sets.get(*index).key.direction == Direction::Egress {
                usage.vips = self.vips.vips.len();
            }
            usage.shortage(&self.capacity).is_none()
        });
        fitting.last().map_or(self.closings.sets.len(), |(place, _)| place)
    }

    fn decide_closings(&mut self, work: &mut Work, output: &mut Output) {
        for (index, _) in std::mem::take(&mut self.closings.sets) {
            self.open(index, work);
        }
        self.settle(work, output);
        let mut before = self.usage();
        while let Some(shortage) = before.shortage(&self.capacity) {
            let Some(index) = self.greatest(shortage.table) else { break };
            self.shut(index, work);
            self.sets.get_mut(index).closed = Some(shortage);
            self.settle(work, output);
            let after = self.usage();
            self.closings.sets.push((index, before.minus(after)));
            before = after;
        }
        self.closings.is_old = false;
    }

    fn usage(&self) -> Usage {
        let open = || self.sets.iter().filter(|(_, set)| set.is_open());
        Usage {
            peers: self.peers.len(),
            vips: self.vips.len(),
            cidrs: open().map(|(_, set)| set.cidrs).sum(),
            decisions: open().map(|(_, set)| set.entries).sum(),
            rules: self.lists.rules,
        }
    }

    /// The open set that needs most of a table.
    fn greatest(&self, table: Table) -> Option<SetIndex> {
        let open = self.sets.iter().filter(|(_, set)| set.is_open());
        let weighed = open.map(|(index, set)| (self.weight(index, table), &set.key, index));
        weighed.max().map(|(_, _, index)| index)
    }

    /// How much of a table a set needs, shared or not.
    fn weight(&self, index: SetIndex, table: Table) -> usize {
        let set = self.sets.get(index);
        match table {
            Table::Cidrs => set.cidrs,
            Table::Decisions => set.entries,
            Table::Rules => set.program.len(),
            Table::Peers => {
                let classes = self.pod_classes_of(index);
                classes.into_iter().map(|class| self.classes.get(class).pods).sum()
            }
            // They all need all of them.
            Table::Vips if set.key.direction == Direction::Egress => self.vips.len(),
            Table::Vips | Table::Hairpins | Table::Endpoints => 0,
        }
    }

    pub(crate) fn note_overflows(&mut self) {
        let mut overflows = Vec::new();
        let directions = [Direction::Ingress, Direction::Egress];
        for (pod, sets) in &self.governed {
            for (set, direction) in sets.iter().zip(directions) {
                if let Some(shortage) = set.and_then(|set| self.sets.get(set).closed) {
                    overflows.push(Overflow { pod: pod.clone(), direction, shortage });
                }
            }
        }
        let capacity = self.capacity.endpoints;
        for (slot, pods) in self.slots.iter().filter(|(slot, _)| !self.has_room_for(**slot)) {
            let shortage = Shortage { table: Table::Endpoints, needed: *slot as usize, capacity };
            for (pod, direction) in pods.iter().flat_map(|pod| directions.map(|d| (pod, d))) {
                overflows.push(Overflow { pod: pod.clone(), direction, shortage });
            }
        }
        for (slot, needed) in &self.vips.crowded {
            let capacity = self.capacity.hairpins_each;
            let shortage = Shortage { table: Table::Hairpins, needed: *needed, capacity };
            let pod = self.slots.get(slot).and_then(BTreeSet::first);
            let direction = Direction::Egress;
            overflows.extend(pod.map(|pod| Overflow { pod: pod.clone(), direction, shortage }));
        }
        overflows.sort_unstable();
        self.overflows = overflows;
    }
}
