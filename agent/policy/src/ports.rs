//! Port ranges: taking them in turns, and writing them as prefixes.

use sluice_common::abi::{DecisionKey, PROTOCOL_ANY, Verdict};

/// `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl Span {
    /// Every port.
    pub(crate) const ALL: Self = Self { first: 0, last: u16::MAX };
}

/// A set of ports: sorted spans that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans(Vec<Span>);

impl Spans {
    /// Every port.
    pub(crate) fn all() -> Self {
        Self(vec![Span::ALL])
    }

    /// Takes the ports of `span` that are in the set out of it.
    pub(crate) fn take(&mut self, span: Span) -> Vec<Span> {
        let start = self.0.partition_point(|s| s.last < span.first);
        let end = self.0.partition_point(|s| s.first <= span.last);
        if start >= end {
            return Vec::new();
        }
        let mut left = Vec::with_capacity(2);
        let (low, high) = (self.0[start].first, self.0[end - 1].last);
        if low < span.first {
            left.push(Span { first: low, last: span.first - 1 });
        }
        if high > span.last {
            left.push(Span { first: span.last + 1, last: high });
        }
        let mut taken: Vec<Span> = self.0.splice(start..end, left).collect();
        for part in &mut taken {
            part.first = part.first.max(span.first);
            part.last = part.last.min(span.last);
        }
        taken
    }

    /// Adds spans.
    pub(crate) fn add(&mut self, more: impl IntoIterator<Item = Span>) {
        self.0.extend(more);
        self.0.sort_unstable();
        self.0.dedup_by(|next, span| {
            let touches = u32::from(next.first) <= u32::from(span.last) + 1;
            if touches {
                span.last = span.last.max(next.last);
            }
            touches
        });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Span> for Spans {
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut all = Self::default();
        all.add(spans);
        all
    }
}

/// What is decided, and at which place of the set's evaluation order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    pub(crate) rank: u32,
}

/// What no step decides. The ranks are no step's: no set has as many.
impl Outcome {
    /// Egress to the pod's own node is let out.
    pub(crate) const HOST: Self = Self { verdict: Verdict::Allow, rank: u32::MAX };
    /// A service leads to the pod that asks, and nowhere else.
    pub(crate) const SELF: Self = Self { verdict: Verdict::Allow, rank: u32::MAX - 1 };
    /// A service leads to backends that get different verdicts.
    pub(crate) const MIXED: Self = Self { verdict: Verdict::Deny, rank: u32::MAX };
}

/// A span with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    pub(crate) span: Span,
    pub(crate) outcome: Outcome,
}

/// An entry of `decisions` below one (set, class).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortEntry {
    /// Prefix length as in [`DecisionKey`].
    pub(crate) bits: u32,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) outcome: Outcome,
}

/// The root entry.
pub(crate) fn root_entry(outcome: Outcome) -> PortEntry {
    PortEntry { bits: DecisionKey::BITS_ANY, protocol: PROTOCOL_ANY, port: 0, outcome }
}

/// Appends the entries of one protocol, below a root entry that says `root`. The outcome that would
/// cost most prefixes becomes the protocol's own entry (none where it is the root's), so that only
/// the others are written out.
///
/// `segments` must cover every port, each once.
pub(crate) fn protocol_entries(
    root: Outcome,
    protocol: u8,
    mut segments: Vec<Segment>,
    entries: &mut Vec<PortEntry>,
) {
    segments.sort_unstable();
    segments.dedup_by(|next, segment| {
        let same = next.outcome == segment.outcome;
        if same {
            segment.span.last = next.span.last;
        }
        same
    });
    let Some(base) = most_prefixes(&segments) else { return };
    if base != root {
        let bits = DecisionKey::BITS_PROTOCOL;
        entries.push(PortEntry { bits, protocol, port: 0, outcome: base });
    }
    for segment in segments.iter().filter(|s| s.outcome != base) {
        entries.extend(cover(segment.span).map(|(port, bits)| PortEntry {
            bits: DecisionKey::BITS_PROTOCOL + bits,
            protocol,
            port,
            outcome: segment.outcome,
        }));
    }
}

/// The outcome whose segments take most prefixes; of equals the lower one.
fn most_prefixes(segments: &[Segment]) -> Option<Outcome> {
    let mut costs: Vec<(Outcome, usize)> =
        segments.iter().map(|s| (s.outcome, cover(s.span).count())).collect();
    costs.sort_unstable();
    costs.dedup_by(|next, cost| {
        let same = next.0 == cost.0;
        if same {
            cost.1 += next.1;
        }
        same
    });
    costs.into_iter().rev().max_by_key(|(_, cost)| *cost).map(|(outcome, _)| outcome)
}

/// The fewest prefixes that cover a span exactly, as (port, bits), in ascending order.
pub(crate) fn cover(span: Span) -> impl Iterator<Item = (u16, u32)> {
    let end = u32::from(span.last) + 1;
    let mut next = u32::from(span.first);
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        // The largest aligned power of two that starts here and does not go beyond the end.
        let aligned = next.trailing_zeros().min(16);
        let size = aligned.min((end - next).ilog2());
        let port = u16::try_from(next).expect("below 65536, as the end is at most that");
        next += 1 << size;
        Some((port, 16 - size))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(first: u16, last: u16) -> Span {
        Span { first, last }
    }

    fn outcome(rank: u32) -> Outcome {
        Outcome { verdict: Verdict::Allow, rank }
    }

    #[test]
    fn the_widest_uneven_range_takes_thirty_prefixes() {
        assert_eq!(cover(span(1, 65534)).count(), 30);
        assert_eq!(cover(Span::ALL).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(cover(span(65535, 65535)).collect::<Vec<_>>(), [(65535, 16)]);
    }

    #[test]
    fn one_allowed_port_is_one_entry_below_the_root() {
        let (deny, allow) = (outcome(1), outcome(0));
        let segments = [(span(81, 65535), deny), (span(0, 79), deny), (span(80, 80), allow)];
        let segments = segments.map(|(span, outcome)| Segment { span, outcome });
        let mut entries = Vec::new();
        protocol_entries(deny, 6, segments.to_vec(), &mut entries);
        assert_eq!(entries, [PortEntry { bits: 96, protocol: 6, port: 80, outcome: allow }]);
    }

    #[test]
    fn a_protocol_that_agrees_with_the_root_has_no_entry() {
        let mut entries = Vec::new();
        let segments = vec![Segment { span: Span::ALL, outcome: outcome(3) }];
        protocol_entries(outcome(3), 17, segments, &mut entries);
        assert_eq!(entries, []);
    }

    proptest! {
        #[test]
        fn the_cover_of_a_span_is_exactly_its_ports(a: u16, b: u16) {
            let span = span(a.min(b), a.max(b));
            let mut ports = Vec::new();
            for (port, bits) in cover(span) {
                let size = 1_u32 << (16 - bits);
                prop_assert_eq!(u32::from(port) % size, 0);
                ports.extend(u32::from(port)..u32::from(port) + size);
            }
            let expected: Vec<u32> = (span.first.into()..=span.last.into()).collect();
            prop_assert_eq!(ports, expected);
        }

        #[test]
        fn taking_moves_ports_and_loses_none(spans in prop::collection::vec((0_u16..300, 0_u16..40), 0..12)) {
            let mut rest = Spans::from_iter([span(0, 320)]);
            let mut left: std::collections::BTreeSet<u16> = (0..=320).collect();
            for (first, length) in spans {
                let part = span(first, first + length);
                let taken: Vec<u16> = rest.take(part).iter().flat_map(|s| s.first..=s.last).collect();
                let expected: Vec<u16> = (part.first..=part.last).filter(|p| left.remove(p)).collect();
                prop_assert_eq!(taken, expected);
                let still: Vec<u16> = rest.iter().flat_map(|s| s.first..=s.last).collect();
                prop_assert_eq!(still, left.iter().copied().collect::<Vec<_>>());
            }
        }

        #[test]
        fn the_longest_prefix_gives_every_port_its_outcome(
            cuts in prop::collection::btree_set(1_u16..=u16::MAX, 0..12),
            ranks in prop::collection::vec(0_u32..4, 13),
            root in 0_u32..4,
        ) {
            let mut segments = Vec::new();
            let mut first = 0_u16;
            for (cut, rank) in cuts.iter().zip(&ranks) {
                segments.push(Segment { span: span(first, cut - 1), outcome: outcome(*rank) });
                first = *cut;
            }
            segments.push(Segment { span: span(first, u16::MAX), outcome: outcome(ranks[12]) });
            let mut entries = Vec::new();
            protocol_entries(outcome(root), 6, segments.clone(), &mut entries);
            let edges = segments.iter().flat_map(|s| [s.span.first, s.span.last]);
            for port in edges.chain((0..=u16::MAX).step_by(251)) {
                let covers = |e: &&PortEntry| {
                    let shift = 16 - (e.bits - DecisionKey::BITS_PROTOCOL);
                    u32::from(e.port) >> shift == u32::from(port) >> shift
                };
                let found = entries.iter().filter(covers).max_by_key(|e| e.bits);
                let found = found.map_or(outcome(root), |e| e.outcome);
                let expected = segments.iter().find(|s| s.span.first <= port && port <= s.span.last);
                prop_assert_eq!(Some(found), expected.map(|s| s.outcome));
            }
        }
    }
}
