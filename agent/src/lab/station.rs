//! A thread that lives in one namespace and asks and answers there.
//!
//! The thread enters the namespace before anything else and never leaves it, so every socket of its
//! runtime is made inside. Nothing else of this process ever changes its namespace.

use std::sync::mpsc as blocking;
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::netns;
use super::probe;
use super::resident::{Job, Reply, Resident};

/// A job, and where its reply goes.
type Order = (Job, blocking::Sender<Reply>);

/// The thread. It ends when this value is dropped, and its sockets with it.
#[derive(Debug)]
pub(super) struct Station {
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Station {
    /// Starts a thread in a namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub(super) fn start(netns: &str) -> anyhow::Result<Self> {
        let (orders, queue) = mpsc::unbounded_channel();
        let (ready, started) = blocking::channel();
        let (name, netns) = (format!("in {netns}"), netns.to_string());
        let thread = thread::Builder::new().name(name).spawn(move || {
            let entered = netns::enter(&netns).and_then(|()| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(Into::into)
            });
            match entered {
                Ok(runtime) => {
                    // Nobody waits for the answer any more if starting was given up.
                    let _ = ready.send(Ok(()));
                    runtime.block_on(work(queue));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
        started.recv().context("the thread of a namespace ended")??;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }
}

impl probe::Station for Station {
    /// A thread that has ended drops the order, and with it the reply's sender: the caller sees it
    /// there.
    fn ask(&self, job: Job) -> blocking::Receiver<Reply> {
        let (reply, answer) = blocking::channel();
        if let Some(orders) = &self.orders {
            let _ = orders.send((job, reply));
        }
        answer
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

async fn work(mut queue: mpsc::UnboundedReceiver<Order>) {
    let mut resident = Resident::default();
    while let Some((job, reply)) = queue.recv().await {
        // Whoever asked and is gone needs no answer.
        let _ = reply.send(resident.work(job).await);
    }
}
