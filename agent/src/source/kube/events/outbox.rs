//! Which trouble is said when: each once, and again after an hour as long as it lasts. What the server
//! does not take now is tried again, later and later; of what it will never take, the log says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::hash;
use crate::source::kube::store::Trouble;

/// A trouble that lasts is said again after this: Events are kept for an hour.
const REPEAT: Duration = Duration::from_secs(3900);

/// Events that may be sent at once; each leaves room for another after [`REFILL`].
const BURST: u32 = 25;

/// See [`BURST`].
const REFILL: Duration = Duration::from_secs(5);

/// Before something is tried again for the first time; each further time takes twice as long.
const RETRY: Duration = Duration::from_secs(5);

/// The longest time before something is tried again.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// All agents notice a broken policy at once; each waits for a part of this before it says so.
const SPREAD: Duration = Duration::from_secs(3);

/// Troubles that are kept in mind at a time. Further ones are said as these end; the status has all.
const CAPACITY: usize = 1000;

/// What became of an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server has it.
    Taken,
    /// It does not take this one, and never will: why.
    Refused(String),
    /// It does not take this one now: why.
    NotNow(String),
    /// It takes nothing now, and may ask for silence.
    Away(Option<Duration>),
}

/// What is known of a trouble that lasts.
#[derive(Debug)]
struct Lasting {
    /// When it is said, or said again.
    next: Instant,
    /// Attempts in a row that failed.
    failures: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox {
    lasting: BTreeMap<Trouble, Lasting>,
    budget: Budget,
    /// What this agent waits more than others.
    spread: Duration,
    /// Nothing is sent before.
    silence: Instant,
    /// Attempts in a row to which the server was away.
    failures: u32,
    /// Reasons that are in the log.
    logged: BTreeSet<String>,
    overfull: bool,
}

impl Outbox {
    pub(super) fn new(node: &str, now: Instant) -> Self {
        Self {
            lasting: BTreeMap::new(),
            budget: Budget::full(now),
            spread: SPREAD.mul_f64(f64::from(hash(&node) as u32) / f64::from(u32::MAX)),
            silence: now,
            failures: 0,
            logged: BTreeSet::new(),
            overfull: false,
        }
    }

    /// Takes in what is wrong now. Those that come first have precedence.
    pub(super) fn note(&mut self, troubles: &[Trouble], now: Instant) {
        let current: BTreeSet<&Trouble> = troubles.iter().collect();
        self.lasting.retain(|trouble, _| current.contains(trouble));
        let mut waiting = 0;
        for trouble in troubles {
            if self.lasting.contains_key(trouble) {
                continue;
            }
            if self.lasting.len() == CAPACITY {
                waiting += 1;
                continue;
            }
            let next = now + trouble.reason.hold() + self.spread;
            self.lasting.insert(trouble.clone(), Lasting { next, failures: 0 });
        }
        if waiting > 0 && !self.overfull {
            tracing::warn!("{waiting} further faults of objects get no Event until others end");
        }
        self.overfull = waiting > 0;
    }

    /// What is to be said now, longest due first.
    pub(super) fn next(&mut self, now: Instant) -> Option<Trouble> {
        if now < self.silence {
            return None;
        }
        let due = self.lasting.iter().filter(|(_, lasting)| lasting.next <= now);
        let (trouble, _) = due.min_by_key(|(_, lasting)| lasting.next)?;
        self.budget.take(now).then(|| trouble.clone())
    }

    /// Notes what became of it.
    pub(super) fn done(&mut self, trouble: &Trouble, outcome: Outcome, now: Instant) {
        if let Outcome::Refused(why) | Outcome::NotNow(why) = &outcome
            && self.logged.len() < CAPACITY
            && self.logged.insert(why.clone())
        {
            tracing::warn!("the API server takes no Event: {why}");
        }
        match outcome {
            Outcome::Away(asked_for) => {
                self.failures = self.failures.saturating_add(1);
                let asked_for = asked_for.unwrap_or_default().min(RETRY_MAX);
                self.silence = now + again_after(self.failures).max(asked_for);
            }
            Outcome::Taken | Outcome::Refused(_) | Outcome::NotNow(_) => self.failures = 0,
        }
        let Some(lasting) = self.lasting.get_mut(trouble) else { return };
        match outcome {
            Outcome::Taken | Outcome::Refused(_) => {
                *lasting = Lasting { next: now + REPEAT, failures: 0 };
            }
            // One that the server fails at must not keep the others waiting.
            Outcome::NotNow(_) | Outcome::Away(_) => {
                lasting.failures = lasting.failures.saturating_add(1);
                lasting.next = now + again_after(lasting.failures);
            }
        }
    }
}

/// With a part left to chance: agents that failed together do not come back together.
fn again_after(failures: u32) -> Duration {
    let most = RETRY.saturating_mul(2_u32.saturating_pow(failures - 1)).min(RETRY_MAX);
    most.mul_f64(0.5 + 0.5 * fastrand::f64())
}

/// How many Events may be sent: where a lot is wrong at once, the API server is not to suffer, least of
/// all where thousands of agents see the same ones.
#[derive(Debug)]
struct Budget {
    left: u32,
    /// From when on time counts towards the next.
    since: Instant,
}

impl Budget {
    const fn full(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// True where another may be sent now, which then counts.
    fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && now - self.since >= REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = now;
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::kinds::Kind;
    use crate::source::kube::events::{Reason, Regarding};

    fn trouble(name: &str) -> Trouble {
        let regarding = Regarding { kind: Kind::NetworkPolicy, name: name.into(), uid: "u".into() };
        Trouble { regarding, reason: Reason::PolicyClosed, note: "wrong".into() }
    }

    #[test]
    fn no_more_is_sent_at_once_than_the_budget_has() {
        let begin = Instant::now();
        let mut budget = Budget::full(begin);
        let taken = |budget: &mut Budget, now| (0..100).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, begin), 25);
        assert_eq!(taken(&mut budget, begin + REFILL * 2), 2);
        assert_eq!(taken(&mut budget, begin + REFILL * 1000), 25);
    }

    #[test]
    fn a_trouble_that_lasts_is_said_again_after_an_hour_and_one_that_ends_is_not() {
        let now = Instant::now();
        let mut outbox = Outbox::new("n", now);
        outbox.note(&[trouble("x/a"), trouble("x/b")], now);
        let later = now + SPREAD;
        for name in ["x/a", "x/b"] {
            assert_eq!(outbox.next(later), Some(trouble(name)));
            outbox.done(&trouble(name), Outcome::Taken, later);
        }
        assert_eq!(outbox.next(later + REPEAT / 2), None);
        outbox.note(&[trouble("x/b")], later + REPEAT / 2);
        assert_eq!(outbox.next(later + REPEAT), Some(trouble("x/b")));
    }

    #[test]
    fn one_that_the_server_fails_at_does_not_keep_the_others_waiting() {
        let mut now = Instant::now();
        let mut outbox = Outbox::new("n", now);
        outbox.note(&[trouble("x/a"), trouble("x/b")], now);
        now += SPREAD;
        assert_eq!(outbox.next(now), Some(trouble("x/a")));
        outbox.done(&trouble("x/a"), Outcome::Away(Some(Duration::from_secs(60))), now);
        assert_eq!(outbox.next(now + Duration::from_secs(59)), None);
        now += Duration::from_secs(60);
        assert_eq!(outbox.next(now), Some(trouble("x/b")));
    }

    #[test]
    fn what_does_not_fit_is_said_when_others_end() {
        let now = Instant::now();
        let mut outbox = Outbox::new("n", now);
        let many: Vec<Trouble> = (0..=CAPACITY).map(|i| trouble(&format!("x/{i:04}"))).collect();
        outbox.note(&many, now);
        assert_eq!((outbox.lasting.len(), outbox.overfull), (CAPACITY, true));
        let last = &many[CAPACITY..];
        assert!(!outbox.lasting.contains_key(&last[0]));
        outbox.note(last, now);
        assert_eq!(outbox.next(now + SPREAD).as_ref(), last.first());
        assert!(!outbox.overfull);
    }
}
