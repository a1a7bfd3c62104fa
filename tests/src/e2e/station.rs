//! A station in a pod: `sluice probe station`, by way of the container's standard input and output.

use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Context as _;
use kube::api::AttachedProcess;
use sluice::lab::probe::Station;
use sluice::lab::resident::{Job, Numbered, Reply};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;

use super::api::Kube;

/// The container of a probe pod that is the station.
pub const CONTAINER: &str = "station";

/// A job, and where its reply goes.
type Order = (Job, Sender<Reply>);

/// The near end of a station. The pod goes on when it is dropped.
#[derive(Debug)]
pub struct PodStation {
    orders: mpsc::UnboundedSender<Order>,
}

impl PodStation {
    /// Attaches to a probe pod.
    ///
    /// # Errors
    /// It does not run.
    pub async fn attach(kube: &Kube, namespace: &str, pod: &str) -> anyhow::Result<Self> {
        let mut process = kube.attach(namespace, pod, CONTAINER).await?;
        let input = process.stdin().context("standard input was asked for")?;
        let output = process.stdout().context("standard output was asked for")?;
        let (orders, queue) = mpsc::unbounded_channel();
        tokio::spawn(serve(process, input, output, queue));
        Ok(Self { orders })
    }
}

impl Station for PodStation {
    fn ask(&self, job: Job) -> Receiver<Reply> {
        let (reply, answer) = channel();
        // A line that has ended drops the order, and with it the reply's sender.
        let _ = self.orders.send((job, reply));
        answer
    }
}

/// Carries orders to the pod, one after the other, until nobody can give any more. The process is held
/// because the line ends with it.
async fn serve(
    process: AttachedProcess,
    mut input: impl AsyncWrite + Unpin,
    output: impl AsyncRead + Unpin,
    mut queue: mpsc::UnboundedReceiver<Order>,
) {
    let mut lines = BufReader::new(output).lines();
    let mut number = 0;
    while let Some((job, reply)) = queue.recv().await {
        number += 1;
        let carried = async {
            let mut text = serde_json::to_string(&Numbered { number, content: job })?;
            text.push('\n');
            input.write_all(text.as_bytes()).await?;
            input.flush().await?;
            loop {
                let line = lines.next_line().await?.context("the pod's output has ended")?;
                let answer: Numbered<Reply> = serde_json::from_str(&line)
                    .with_context(|| format!("not a reply of a station: {line}"))?;
                // That to an order that was given up may come first.
                if answer.number == number {
                    return anyhow::Ok(answer.content);
                }
            }
        };
        let failed = |error| Reply::Failed { reason: format!("the line to the pod: {error:#}") };
        // Whoever asked and is gone needs no answer.
        let _ = reply.send(carried.await.unwrap_or_else(failed));
    }
    process.abort();
}
