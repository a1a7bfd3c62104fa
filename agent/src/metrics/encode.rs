//! A report as OpenMetrics, or as the older text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use sluice_common::abi::{ABI_VERSION, Direction};
use sluice_common::reason::{Outcome, Reason};
use sluice_policy::model::direction_label;

use super::{Report, RuleReport};
use crate::datapath::counters::Snapshot;
use crate::endpoint::Unenforced;
use crate::status::{EndpointStatus, EnforcementState};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
}

impl Format {
    /// The one that an `Accept` header asks for. Whoever can read OpenMetrics says so.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// For the `Content-Type` header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The report as text.
pub fn encode(report: Report, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(report));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .expect("writing to a string cannot fail");
    match format {
        Format::OpenMetrics => text,
        Format::Text => to_text(&text),
    }
}

/// OpenMetrics names a counter without `_total` and an info without `_info` where it says what they
/// are; the older format names the sample, and knows no info.
fn to_text(open_metrics: &str) -> String {
    let mut types = BTreeMap::new();
    for line in open_metrics.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            types.insert(name, kind);
        }
    }
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|keyword| {
            let (name, rest) = line.strip_prefix(keyword)?.split_once(' ')?;
            Some((keyword, name, rest))
        });
        match described {
            None => text.push_str(line),
            Some((keyword, name, rest)) => {
                let (suffix, kind) = match types.get(name) {
                    Some(&"counter") => ("_total", "counter"),
                    Some(&"info") => ("_info", "gauge"),
                    _ => ("", rest),
                };
                let rest = if keyword == "# TYPE " { kind } else { rest };
                text.push_str(&format!("{keyword}{name}{suffix} {rest}"));
            }
        }
        text.push('\n');
    }
    text
}

impl Collector for Report {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_packets(&mut encoder)?;
        self.encode_notes(&mut encoder)?;
        self.encode_rules(&mut encoder)?;
        self.encode_endpoints(&mut encoder)?;
        self.encode_source(&mut encoder)?;
        self.encode_tables(&mut encoder)?;
        self.encode_timings(&mut encoder)?;
        let mut info = encoder.encode_descriptor(
            "sluice_build",
            "The agent's version",
            None,
            MetricType::Info,
        )?;
        let abi = ABI_VERSION.to_string();
        info.encode_info(&[("version", env!("CARGO_PKG_VERSION")), ("abi", &abi)])
    }
}

/// A metric of one type, with all its samples.
struct Family<'a>(MetricEncoder<'a>);

impl<'a> Family<'a> {
    fn counter(
        encoder: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &str,
    ) -> Result<Self, fmt::Error> {
        encoder.encode_descriptor(name, help, None, MetricType::Counter).map(Self)
    }

    fn gauge(
        encoder: &'a mut DescriptorEncoder<'_>,
        name: &'a str,
        help: &str,
    ) -> Result<Self, fmt::Error> {
        encoder.encode_descriptor(name, help, None, MetricType::Gauge).map(Self)
    }

    fn count(&mut self, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
        let exemplar = None::<&Exemplar<[(&str, &str); 0], u64>>;
        self.0.encode_family(labels)?.encode_counter(&value, exemplar)
    }

    fn show(&mut self, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
        // A gauge of whole numbers; none of ours comes near the end of `i64`.
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.0.encode_family(labels)?.encode_gauge(&value)
    }
}

/// `namespace` and `name` of an endpoint.
fn parts(endpoint: &EndpointStatus) -> (&str, &str) {
    endpoint.pod.split_once('/').unwrap_or(("", &endpoint.pod))
}

/// Packets that went on although policy could have dropped them.
fn is_allowed(reason: Reason) -> bool {
    reason.outcome() == Outcome::Pass && reason != Reason::Control
}

/// The direction is isolated, or was and has counted something.
fn shows(endpoint: &EndpointStatus, counted: &Snapshot, direction: Direction) -> bool {
    let governed = match direction {
        Direction::Ingress => endpoint.ingress,
        Direction::Egress => endpoint.egress,
    };
    governed || counted.keys().any(|(counted, _)| *counted == direction)
}

impl Report {
    /// Every endpoint and direction that counts packets.
    fn counting(&self) -> impl Iterator<Item = (&EndpointStatus, &Snapshot, Direction)> {
        let directions = [Direction::Ingress, Direction::Egress];
        self.endpoints.iter().flat_map(move |(endpoint, counted)| {
            let shown = move |direction: &Direction| shows(endpoint, counted, *direction);
            directions.into_iter().filter(shown).map(move |d| (endpoint, counted, d))
        })
    }

    /// The drops of every endpoint and direction: `default-deny` always, so that a rate sees the
    /// first one; other reasons once they occur.
    fn drops(&self) -> impl Iterator<Item = ([(&'static str, &str); 4], u64, u64)> {
        self.counting().flat_map(|(endpoint, counted, direction)| {
            let (namespace, pod) = parts(endpoint);
            let dropping = Reason::ALL.iter().filter(|r| r.outcome() == Outcome::Drop);
            dropping.filter_map(move |&reason| {
                let counter = counted.get(&(direction, reason)).copied();
                if counter.is_none() && reason != Reason::DefaultDeny {
                    return None;
                }
                let counter = counter.unwrap_or_default();
                let labels = [
                    ("namespace", namespace),
                    ("pod", pod),
                    ("direction", direction_label(direction)),
                    ("reason", reason.label()),
                ];
                Some((labels, counter.packets, counter.bytes))
            })
        })
    }

    fn encode_packets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Packets of a pod that were dropped";
        let mut family = Family::counter(encoder, "sluice_drop_packets", help)?;
        for (labels, packets, _) in self.drops() {
            family.count(&labels, packets)?;
        }
        let help = "Bytes of a pod's packets that were dropped, Ethernet headers included";
        let mut family = Family::counter(encoder, "sluice_drop_bytes", help)?;
        for (labels, _, bytes) in self.drops() {
            family.count(&labels, bytes)?;
        }
        let help = "Packets of a pod that went on; ARP, neighbour discovery and DHCP are not in it";
        let mut family = Family::counter(encoder, "sluice_allow_packets", help)?;
        for (endpoint, counted, direction) in self.counting() {
            let passed =
                counted.iter().filter(|((of, reason), _)| *of == direction && is_allowed(*reason));
            let packets = passed.map(|(_, counter)| counter.packets).sum();
            let (namespace, pod) = parts(endpoint);
            let direction = direction_label(direction);
            family.count(
                &[("namespace", namespace), ("pod", pod), ("direction", direction)],
                packets,
            )?;
        }
        Ok(())
    }

    fn encode_notes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Packets of a pod at which something was lost: the record of a drop, or a flow that \
                    gave way to theirs";
        let mut family = Family::counter(encoder, "sluice_noted_packets", help)?;
        for (endpoint, counted, direction) in self.counting() {
            let (namespace, pod) = parts(endpoint);
            let noted = counted
                .iter()
                .filter(|((of, reason), _)| *of == direction && reason.outcome() == Outcome::Note);
            for ((_, reason), counter) in noted {
                let labels = [
                    ("namespace", namespace),
                    ("pod", pod),
                    ("direction", direction_label(direction)),
                    ("reason", reason.label()),
                ];
                family.count(&labels, counter.packets)?;
            }
        }
        Ok(())
    }

    fn encode_rules(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help =
            "Packets that a rule decided on; those of flows that were judged before are not in it";
        let mut family = Family::counter(encoder, "sluice_rule_packets", help)?;
        for RuleReport { rule, verdict, packets } in &self.rules {
            let index = rule.index.to_string();
            let labels = [
                ("kind", rule.policy.kind.as_str()),
                ("namespace", rule.policy.namespace.as_deref().unwrap_or_default()),
                ("name", &rule.policy.name),
                ("direction", direction_label(rule.direction)),
                ("rule", &index),
                ("verdict", verdict),
            ];
            family.count(&labels, *packets)?;
        }
        Ok(())
    }

    fn encode_endpoints(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Pods of this node by what their policies are: in force or not";
        let mut family = Family::gauge(encoder, "sluice_endpoints", help)?;
        for state in EnforcementState::ALL {
            let count = self.endpoints.iter().filter(|(e, _)| e.state == state).count();
            family.show(&[("state", state.metric_label())], count as u64)?;
        }
        let help = "Pods of this node whose policies are not in force, by reason";
        let mut family = Family::gauge(encoder, "sluice_unenforced_endpoints", help)?;
        for reason in Unenforced::LABELS {
            let is_why = |e: &EndpointStatus| e.cause.as_deref() == Some(reason);
            let count = self.endpoints.iter().filter(|(e, _)| is_why(e)).count();
            family.show(&[("reason", reason)], count as u64)?;
        }
        Ok(())
    }

    fn encode_source(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Objects of the source by what became of them";
        let mut family = Family::gauge(encoder, "sluice_objects", help)?;
        for ((kind, state), count) in &self.objects {
            family.show(&[("kind", *kind), ("state", state.label())], *count)?;
        }
        let help = "Policies of this node's pods that are valid and hardly meant, by what is odd";
        let mut family = Family::gauge(encoder, "sluice_policy_warnings", help)?;
        family.show(&[("reason", "unresolved-named-port")], self.unresolved_ports)?;
        let help = "1 where changes of the kind of object are being told";
        let mut family = Family::gauge(encoder, "sluice_watch_connected", help)?;
        for (kind, connected) in &self.watches {
            family.show(&[("kind", kind.as_str())], u64::from(*connected))?;
        }
        Ok(())
    }

    fn encode_tables(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family =
            Family::gauge(encoder, "sluice_map_entries", "Entries in use of a kernel table")?;
        for table in &self.tables {
            family.show(&[("map", table.table.as_str())], table.used)?;
        }
        let mut family =
            Family::gauge(encoder, "sluice_map_capacity", "Entries that fit a kernel table")?;
        for table in &self.tables {
            family.show(&[("map", table.table.as_str())], table.capacity)?;
        }
        let help = "Since the entries of a table that packets fill were counted; others are as now";
        let mut family = Family::gauge(encoder, "sluice_map_entries_age_seconds", help)?;
        for table in &self.tables {
            if let Some(age) = table.age_seconds {
                family.show(&[("map", table.table.as_str())], age)?;
            }
        }
        let help = "Writes that the last comparison with the kernel needed";
        let mut family = Family::gauge(encoder, "sluice_last_heal_corrections", help)?;
        family.0.encode_gauge(&i64::try_from(self.last_heal_corrections).unwrap_or(i64::MAX))
    }

    fn encode_timings(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let timings = &self.timings;
        let help = "Bringing the kernel to a change";
        histogram(encoder, "sluice_apply_duration_seconds", help, &timings.apply)?;
        let help = "From an event's arrival at the source to the kernel's enforcing it";
        let name = "sluice_event_to_enforced_seconds";
        histogram(encoder, name, help, &timings.event_to_enforced)?;
        let help = "From the creation of a pod, in whole seconds, to its enforcement";
        let name = "sluice_pod_start_to_enforced_seconds";
        histogram(encoder, name, help, &timings.pod_start_to_enforced)?;
        let help = "What the CNI plugin has waited for the policies of a pod that starts";
        histogram(encoder, "sluice_cni_add_seconds", help, &timings.cni_add)?;
        let help = "Live connections that were learned when their pod became isolated";
        let mut family = Family::counter(encoder, "sluice_learned_connections", help)?;
        let exemplar = None::<&Exemplar<[(&str, &str); 0], u64>>;
        family.0.encode_counter(&self.learned_connections, exemplar)
    }
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    histogram: &impl EncodeMetric,
) -> fmt::Result {
    histogram.encode(encoder.encode_descriptor(name, help, None, MetricType::Histogram)?)
}

#[cfg(test)]
mod tests;
