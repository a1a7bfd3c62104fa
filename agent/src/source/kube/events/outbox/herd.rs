//! What thousands of agents that find the same ask of one API server.

use super::*;
use crate::manifest::kinds::Kind;
use crate::source::kube::events::{Reason, Regarding};

const AGENTS: usize = 5000;

fn report(name: &str, voices: u32) -> Report {
    let regarding = Regarding { kind: Kind::NetworkPolicy, name: name.into(), uid: name.into() };
    let trouble = Trouble { regarding, reason: Reason::PolicyClosed, note: "wrong".into() };
    Report { trouble, voices }
}

/// Agents that look every second whether something is to be said, each at its own time.
struct Herd {
    outboxes: Vec<Outbox>,
    now: Instant,
    /// Tenths of a second that have passed.
    tenths: usize,
}

impl Herd {
    fn new(agents: usize) -> Self {
        let now = Instant::now();
        let outbox = |i| Outbox::new(&format!("node-{i}"), now);
        Self { outboxes: (0..agents).map(outbox).collect(), now, tenths: 0 }
    }

    fn note(&mut self, reports: impl Fn(usize) -> Vec<Report>) {
        for (i, outbox) in self.outboxes.iter_mut().enumerate() {
            outbox.note(&reports(i), self.now);
        }
    }

    /// The agents that asked in each of the next seconds. The server takes everything, or has it.
    fn pass(&mut self, seconds: usize) -> Vec<Vec<usize>> {
        let second = |_| (0..10).flat_map(|_| self.pass_a_tenth()).collect();
        (0..seconds).map(second).collect()
    }

    fn pass_a_tenth(&mut self) -> Vec<usize> {
        let mut asked = Vec::new();
        self.tenths += 1;
        self.now += Duration::from_millis(100);
        for i in (self.tenths % 10..self.outboxes.len()).step_by(10) {
            while let Some(trouble) = self.outboxes[i].next(self.now) {
                self.outboxes[i].done(&trouble, Outcome::Taken, self.now);
                asked.push(i);
            }
        }
        asked
    }
}

fn most(seconds: &[Vec<usize>]) -> usize {
    seconds.iter().map(Vec::len).max().unwrap_or_default()
}

fn total(seconds: &[Vec<usize>]) -> usize {
    seconds.iter().map(Vec::len).sum()
}

/// The first second in which somebody asked.
fn first(seconds: &[Vec<usize>]) -> usize {
    seconds.iter().position(|asked| !asked.is_empty()).expect("somebody asks")
}

#[test]
fn what_everybody_finds_and_nobody_has_a_pod_for_is_asked_a_few_times_a_second() {
    let mut herd = Herd::new(AGENTS);
    herd.note(|_| vec![report("x/p", EVERYBODY)]);
    let seconds = herd.pass(670);
    assert_eq!(total(&seconds), AGENTS, "each once: one that is not heard is said by the next");
    // Evenly it would be 8.
    assert!(most(&seconds) <= 30, "{} in a second", most(&seconds));
    assert!(first(&seconds) <= 30, "the first after {} s", first(&seconds));
}

#[test]
fn where_some_have_a_pod_one_of_them_says_it_within_seconds_and_the_others_later() {
    for (concerned, pods) in [(1, 1), (3, 20), (10, 1000), (1000, 2000)] {
        let mut herd = Herd::new(AGENTS);
        let voices = |i| if i < concerned { pods } else { EVERYBODY };
        herd.note(|i| vec![report("x/p", voices(i))]);
        let seconds = herd.pass(670);
        assert_eq!(total(&seconds), AGENTS);
        assert!(most(&seconds) <= 40, "{concerned}: {} in a second", most(&seconds));
        // 110 pods of one node spread over 13 s.
        assert!(first(&seconds) <= 15, "{concerned}: the first after {} s", first(&seconds));
        let spread = spread(pods).as_secs() as usize + 1;
        let asked = seconds[..=spread].concat();
        assert!((0..concerned).all(|i| asked.contains(&i)), "{concerned}: all within {spread} s");
    }
}

#[test]
fn many_objects_that_break_at_once_after_a_quiet_time_are_no_stampede_either() {
    let agents = 600;
    let mut herd = Herd::new(agents);
    herd.pass(500);
    let reports: Vec<Report> = (0..50).map(|i| report(&format!("x/{i}"), EVERYBODY)).collect();
    herd.note(|_| reports.clone());
    let seconds = herd.pass(180);
    // One of each agent in a minute: evenly it would be 10.
    assert!(most(&seconds) <= 30, "{} in a second", most(&seconds));
    assert!(total(&seconds) <= agents * 3, "{} in three minutes", total(&seconds));
}

#[test]
fn who_still_waits_when_the_trouble_ends_says_nothing() {
    let mut herd = Herd::new(AGENTS);
    herd.note(|_| vec![report("x/p", EVERYBODY)]);
    let before = total(&herd.pass(100));
    assert!((1..AGENTS / 4).contains(&before), "{before} of {AGENTS} within 100 s");
    herd.note(|_| Vec::new());
    assert_eq!(total(&herd.pass(600)), 0);
}

#[test]
fn who_gets_a_pod_of_the_namespace_speaks_at_once_unless_it_has_spoken() {
    let mut herd = Herd::new(10);
    herd.note(|_| vec![report("x/p", EVERYBODY)]);
    let before = total(&herd.pass(60));
    herd.note(|_| vec![report("x/p", 10)]);
    assert_eq!(before + total(&herd.pass(5)), 10);
    // Nor does it begin anew to wait when there are more agents, or fewer.
    herd.note(|_| vec![report("x/p", 1)]);
    assert_eq!(total(&herd.pass(60)), 0);
}
