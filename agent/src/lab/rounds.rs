//! Which probes run together, so that drops can be told apart.
//!
//! Counters are per pod and direction. In one round every place is the source of at most one pair and
//! the destination of at most one, so what its counter moves by belongs to that pair.

use std::collections::{BTreeMap, BTreeSet};

use super::topology::Place;

/// The two ends of a probe: where it starts and every place where it may arrive.
pub(super) type Ends = (Place, Vec<Place>);

/// Most attempts of one pair at a time: each may need a socket on either side.
pub(super) const PAIR_MAX: usize = 64;

/// Groups `probes` (by index) into rounds, with at most `per_pair` probes of one pair in each.
pub(super) fn rounds(probes: &[(usize, Ends)], per_pair: usize) -> Vec<Vec<usize>> {
    let mut pairs: BTreeMap<&Ends, Vec<usize>> = BTreeMap::new();
    for (index, ends) in probes {
        pairs.entry(ends).or_default().push(*index);
    }
    let places: BTreeSet<&Place> =
        pairs.keys().flat_map(|(from, to)| to.iter().chain([from])).collect();
    let position = |place: &Place| places.iter().position(|other| *other == place).unwrap_or(0);
    // Pairs at equal distance do not meet: with n places all their pairs fit into n rounds.
    let mut ordered: Vec<(usize, (&Ends, Vec<usize>))> = pairs
        .into_iter()
        .map(|pair| {
            let (from, to) = pair.0;
            let to = to.first().map_or(0, position);
            ((to + places.len() - position(from)) % places.len(), pair)
        })
        .collect();
    ordered.sort();
    let mut rounds: Vec<Round> = Vec::new();
    for (_, (ends, indexes)) in ordered {
        let mut first = 0;
        for chunk in indexes.chunks(per_pair) {
            while rounds.get(first).is_some_and(|round| !round.has_room_for(ends)) {
                first += 1;
            }
            if first == rounds.len() {
                rounds.push(Round::default());
            }
            rounds[first].add(ends, chunk);
        }
    }
    rounds.into_iter().map(|round| round.probes).collect()
}

#[derive(Default)]
struct Round {
    sources: BTreeSet<Place>,
    destinations: BTreeSet<Place>,
    probes: Vec<usize>,
}

impl Round {
    fn has_room_for(&self, (from, to): &Ends) -> bool {
        !self.sources.contains(from) && !to.iter().any(|place| self.destinations.contains(place))
    }

    fn add(&mut self, (from, to): &Ends, probes: &[usize]) {
        self.sources.insert(from.clone());
        self.destinations.extend(to.iter().cloned());
        self.probes.extend(probes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(i: usize) -> Place {
        Place::Node(format!("n{i}"))
    }

    fn matrix(places: usize, each: usize) -> Vec<(usize, Ends)> {
        let pairs = (0..places).flat_map(|a| (0..places).map(move |b| (place(a), vec![place(b)])));
        pairs.flat_map(|ends| vec![ends; each]).enumerate().collect()
    }

    #[test]
    fn a_full_matrix_takes_as_many_rounds_as_it_has_places() {
        let rounds = rounds(&matrix(9, 6), PAIR_MAX);
        assert_eq!(rounds.len(), 9);
        assert!(rounds.iter().all(|round| round.len() == 9 * 6));
    }

    #[test]
    fn every_probe_is_in_one_round_and_no_place_is_twice_an_end() {
        let probes = matrix(4, 3);
        let rounds = rounds(&probes, 1);
        let mut seen: Vec<usize> = rounds.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..probes.len()).collect::<Vec<_>>());
        for round in &rounds {
            let mut sources = BTreeSet::new();
            let mut destinations = BTreeSet::new();
            for index in round {
                let (from, to) = &probes[*index].1;
                assert!(sources.insert(from));
                assert!(to.iter().all(|place| destinations.insert(place)));
            }
        }
    }

    #[test]
    fn many_probes_of_one_pair_are_split() {
        let probes: Vec<_> = (0..10).map(|i| (i, (place(0), vec![place(1)]))).collect();
        let sizes: Vec<usize> = rounds(&probes, 4).iter().map(Vec::len).collect();
        assert_eq!(sizes, [4, 4, 2]);
    }
}
