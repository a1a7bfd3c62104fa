//! The answer of `sluice explain`: one probe, and why.

use std::net::IpAddr;

use serde::Serialize;
use sluice_policy::explain::Explanation;

use super::ProbeRow;

/// One probe, and why.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainReport {
    /// The probe.
    #[serde(flatten)]
    pub probe: ProbeRow,
    /// Where a service leads, if the probe goes to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendRow>,
    /// Why, a sentence or more for each side that has a check.
    pub because: Vec<String>,
}

/// Where a service leads.
#[derive(Clone, Debug, Serialize)]
pub struct BackendRow {
    /// Address of the backend.
    pub address: IpAddr,
    /// Port of the backend.
    pub port: u16,
}

impl ExplainReport {
    /// Puts explanations of the sides into their form.
    pub fn new(probe: ProbeRow, backend: Option<BackendRow>, sides: &[Explanation]) -> Self {
        let because = sides.iter().map(ToString::to_string).collect();
        Self { probe, backend, because }
    }
}

/// Renders sentences.
pub fn render(report: &ExplainReport) -> String {
    let mut text = format!("{}: {}\n", report.probe.in_words(), report.probe.verdict);
    if let Some(BackendRow { address, port }) = &report.backend {
        text.push_str(&format!(
            "the service leads to {address} port {port}, which is what policy sees\n"
        ));
    }
    for sentence in &report.because {
        text.push('\n');
        text.push_str(sentence);
        text.push('\n');
    }
    if report.because.is_empty() {
        text.push_str("neither end is a pod, or there is no way to it: no policy is asked\n");
    }
    text
}
