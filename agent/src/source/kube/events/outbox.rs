//! Which trouble is said when: each once, and again after an hour as long as it lasts. What the server
//! does not take now is tried again, later and later; of what it will never take, the log says so.
//!
//! What many agents find, each says at a time of its own, so that the server gets about one request
//! about an object each [`SLOT`], however many agents there are, from those that have a pod in its
//! namespace, and one from the others. Those that say it after the first are told that it exists. Whatever
//! is over by then is not said.

#[cfg(test)]
mod herd;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{EVERYBODY, Report, hash};
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

/// Time for each agent that may say the same: 5,000 of them spread over ten minutes.
const SLOT: Duration = Duration::from_millis(120);

/// The least time over which they spread: a few agents that notice the same at once.
const SPREAD_MIN: Duration = Duration::from_secs(3);

/// What everybody may say, an agent says one of in this time: a thousand broken objects are no reason
/// for all to speak at once either.
const TURN: Duration = Duration::from_secs(60);

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
    /// Over how long those spread who may say it.
    spread: Duration,
    /// It was not tried yet.
    is_new: bool,
}

impl Lasting {
    /// Everybody may say it.
    fn is_everybodys(&self) -> bool {
        self.spread >= spread(EVERYBODY)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox {
    node: String,
    lasting: BTreeMap<Trouble, Lasting>,
    budget: Budget,
    turns: Turns,
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
            node: node.into(),
            lasting: BTreeMap::new(),
            budget: Budget::full(now),
            turns: Turns { next: now + part(TURN, &node) },
            silence: now,
            failures: 0,
            logged: BTreeSet::new(),
            overfull: false,
        }
    }

    /// Takes in what is wrong now. Those that come first have precedence.
    pub(super) fn note(&mut self, reports: &[Report], now: Instant) {
        let current: BTreeSet<&Trouble> = reports.iter().map(|report| &report.trouble).collect();
        self.lasting.retain(|trouble, _| current.contains(trouble));
        let mut waiting = 0;
        for Report { trouble, voices } in reports {
            let spread = spread(*voices);
            let known = self.lasting.get_mut(trouble);
            // What has waited need not wait again because there are more agents by now.
            if known.as_ref().is_some_and(|lasting| !lasting.is_new || lasting.spread <= spread) {
                continue;
            }
            let wait = trouble.reason.hold() + part(spread, &(&self.node, &trouble.regarding.uid));
            if let Some(lasting) = known {
                lasting.spread = spread;
                lasting.next = lasting.next.min(now + wait);
            } else if self.lasting.len() == CAPACITY {
                waiting += 1;
            } else {
                let lasting = Lasting { next: now + wait, failures: 0, spread, is_new: true };
                self.lasting.insert(trouble.clone(), lasting);
            }
        }
        if waiting > 0 && !self.overfull {
            tracing::warn!("{waiting} further faults of objects get no Event until others end");
        }
        self.overfull = waiting > 0;
    }

    /// What is to be said now, longest due first, and last what everybody may say.
    pub(super) fn next(&mut self, now: Instant) -> Option<Trouble> {
        if now < self.silence {
            return None;
        }
        let longest_due = |is_everybodys: bool| {
            let due = self.lasting.iter().filter(|(_, lasting)| lasting.next <= now);
            due.filter(|(_, lasting)| lasting.is_everybodys() == is_everybodys)
                .min_by_key(|(_, lasting)| lasting.next)
        };
        if let Some((trouble, _)) = longest_due(false) {
            return self.budget.take(now).then(|| trouble.clone());
        }
        let (trouble, lasting) = longest_due(true)?;
        self.turns.take(lasting.next, now).then(|| trouble.clone())
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
        lasting.is_new = false;
        match outcome {
            Outcome::Taken | Outcome::Refused(_) => {
                lasting.failures = 0;
                lasting.next = now + REPEAT;
            }
            // One that the server fails at must not keep the others waiting.
            Outcome::NotNow(_) | Outcome::Away(_) => {
                lasting.failures = lasting.failures.saturating_add(1);
                lasting.next = now + again_after(lasting.failures);
            }
        }
    }
}

/// Over how long so many agents spread.
fn spread(voices: u32) -> Duration {
    SLOT.saturating_mul(voices.min(EVERYBODY)).max(SPREAD_MIN)
}

/// The same part of a time for the same value, another for another.
fn part(time: Duration, of: &impl std::hash::Hash) -> Duration {
    time.mul_f64(f64::from(hash(of) as u32) / f64::from(u32::MAX))
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

/// When this agent may say what everybody may say.
#[derive(Debug)]
struct Turns {
    next: Instant,
}

impl Turns {
    /// True where what is due `since` then may be said now, which then ends the turn. A turn that comes
    /// while nothing is due is lost: what breaks after a quiet time breaks for everybody at once.
    fn take(&mut self, since: Instant, now: Instant) -> bool {
        while self.next < since {
            self.next += TURN;
        }
        let has_come = self.next <= now;
        while self.next <= now {
            self.next += TURN;
        }
        has_come
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

    /// Of which few know.
    fn report(name: &str) -> Report {
        Report { trouble: trouble(name), voices: 1 }
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
        outbox.note(&[report("x/a"), report("x/b")], now);
        let later = now + SPREAD_MIN;
        for name in ["x/a", "x/b"] {
            assert_eq!(outbox.next(later), Some(trouble(name)));
            outbox.done(&trouble(name), Outcome::Taken, later);
        }
        assert_eq!(outbox.next(later + REPEAT / 2), None);
        outbox.note(&[report("x/b")], later + REPEAT / 2);
        assert_eq!(outbox.next(later + REPEAT), Some(trouble("x/b")));
    }

    #[test]
    fn one_that_the_server_fails_at_does_not_keep_the_others_waiting() {
        let mut now = Instant::now();
        let mut outbox = Outbox::new("n", now);
        outbox.note(&[report("x/a"), report("x/b")], now);
        now += SPREAD_MIN;
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
        let many: Vec<Report> = (0..=CAPACITY).map(|i| report(&format!("x/{i:04}"))).collect();
        outbox.note(&many, now);
        assert_eq!((outbox.lasting.len(), outbox.overfull), (CAPACITY, true));
        let last = &many[CAPACITY..];
        assert!(!outbox.lasting.contains_key(&last[0].trouble));
        outbox.note(last, now);
        assert_eq!(outbox.next(now + SPREAD_MIN).as_ref(), Some(&last[0].trouble));
        assert!(!outbox.overfull);
    }
}
