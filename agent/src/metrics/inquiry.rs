//! How the server asks the agent's loop, and how it knows that the loop turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::{Readiness, Report};

/// A question on its way to the agent's loop. Who asked may be gone when it is answered.
#[derive(Debug)]
pub enum Inquiry {
    /// For `/metrics`; an error where the kernel's tables cannot be read.
    Report {
        /// Also what each rule decided on.
        rules: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Report, String>>,
    },
    /// For `/readyz`.
    Readiness {
        /// Where the answer goes.
        reply: oneshot::Sender<Readiness>,
    },
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The loop has other work, or is stuck; see [`Asker::since_turn`].
    #[error(
        "the agent's loop does not answer: it is busy or stuck; what it enforced stays enforced"
    )]
    Silent,
    /// The agent is stopping.
    #[error("the agent is stopping; what it enforced stays enforced")]
    Stopping,
    /// The kernel's tables cannot be read.
    #[error("{0}")]
    Kernel(String),
}

/// When the loop last turned.
#[derive(Debug)]
struct Pulse {
    start: Instant,
    /// Milliseconds after `start`.
    turned: AtomicU64,
}

/// The server's end.
#[derive(Clone, Debug)]
pub struct Asker {
    sender: mpsc::Sender<Inquiry>,
    pulse: Arc<Pulse>,
    patience: Duration,
}

/// The loop's end.
#[derive(Debug)]
pub struct Inquiries {
    receiver: mpsc::Receiver<Inquiry>,
    pulse: Arc<Pulse>,
}

/// Both ends. An asker waits for an answer no longer than `patience`.
pub fn inquiries(patience: Duration) -> (Asker, Inquiries) {
    let (sender, receiver) = mpsc::channel(4);
    let pulse = Arc::new(Pulse { start: Instant::now(), turned: AtomicU64::new(0) });
    (Asker { sender, pulse: pulse.clone(), patience }, Inquiries { receiver, pulse })
}

impl Asker {
    /// A report; with what each rule decided on if `rules`.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn report(&self, rules: bool) -> Result<Report, AskError> {
        let answer = self.ask(|reply| Inquiry::Report { rules, reply }).await?;
        answer.map_err(AskError::Kernel)
    }

    /// Whether everything that is wanted is in the kernel.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn readiness(&self) -> Result<Readiness, AskError> {
        self.ask(|reply| Inquiry::Readiness { reply }).await
    }

    /// How long ago the loop has begun its latest turn. An idle loop turns several times a second.
    pub fn since_turn(&self) -> Duration {
        let turned = Duration::from_millis(self.pulse.turned.load(Ordering::Relaxed));
        self.pulse.start.elapsed().saturating_sub(turned)
    }

    async fn ask<T>(
        &self,
        inquiry: impl FnOnce(oneshot::Sender<T>) -> Inquiry,
    ) -> Result<T, AskError> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.sender.send(inquiry(reply)).await.map_err(|_| AskError::Stopping)?;
            answer.await.map_err(|_| AskError::Stopping)
        };
        tokio::time::timeout(self.patience, asked).await.unwrap_or(Err(AskError::Silent))
    }
}

impl Inquiries {
    /// The next question; waits for ever where nobody can ask any more.
    pub async fn next(&mut self) -> Inquiry {
        match self.receiver.recv().await {
            Some(inquiry) => inquiry,
            None => std::future::pending().await,
        }
    }

    /// To be called at every turn of the loop.
    pub fn turn(&self) {
        let now = u64::try_from(self.pulse.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.pulse.turned.store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_does_not_answer_is_called_silent() {
        let (asker, _inquiries) = inquiries(Duration::from_millis(1));
        assert_eq!(asker.readiness().await, Err(AskError::Silent));
    }

    #[tokio::test]
    async fn a_loop_that_has_ended_is_not_waited_for() {
        let (asker, inquiries) = inquiries(Duration::from_secs(3600));
        drop(inquiries);
        assert_eq!(asker.readiness().await, Err(AskError::Stopping));
    }

    #[tokio::test]
    async fn the_loop_answers_what_it_was_asked() {
        let (asker, mut inquiries) = inquiries(Duration::from_secs(3600));
        let answer = tokio::spawn(async move { asker.report(true).await.map(|_| ()) });
        match inquiries.next().await {
            Inquiry::Report { rules: true, reply } => {
                reply.send(Err("no table".into())).expect("someone waits");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(answer.await.expect("ended"), Err(AskError::Kernel("no table".into())));
    }
}
