//! A pod whose object is gone while its interface lives, as the next agent must know it: what policies
//! select it by, and the names of its ports. No source says these any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sluice_policy::model::{NamedPort, Pod, PodName, Protocol};

/// Most bytes of labels and names of ports that are noted of a pod. A pod with more is closed by the next
/// agent, since it cannot know them.
const SIZE_MAX: usize = 16 * 1024;

/// See the module. There is one for each place of such a pod at most, so their number is bounded too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GonePod {
    namespace: String,
    name: String,
    labels: BTreeMap<String, String>,
    ports: Vec<PortForm>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PortForm {
    name: String,
    protocol: ProtocolForm,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum ProtocolForm {
    Tcp,
    Udp,
    Sctp,
}

impl GonePod {
    /// Of a pod by the name that it goes by since; `None` where that is too much to note.
    pub fn of(name: &PodName, pod: &Pod) -> Option<Self> {
        let labels = pod.labels.iter().map(|(key, value)| key.len() + value.len());
        let size = labels.chain(pod.ports.iter().map(|port| port.name.len())).sum::<usize>();
        let PodName { namespace, name } = name.clone();
        (size <= SIZE_MAX).then(|| Self {
            namespace,
            name,
            labels: pod.labels.iter().map(|(key, value)| (key.into(), value.into())).collect(),
            ports: pod.ports.iter().map(PortForm::from).collect(),
        })
    }

    /// The name that it goes by, and what is known of it.
    pub fn into_pod(self) -> (PodName, Pod) {
        let Self { namespace, name, labels, ports } = self;
        let ports = ports.into_iter().map(NamedPort::from).collect();
        let pod = Pod { labels: labels.into_iter().collect(), ports, ..Pod::default() };
        (PodName { namespace, name }, pod)
    }
}

impl From<&NamedPort> for PortForm {
    fn from(port: &NamedPort) -> Self {
        let NamedPort { name, protocol, port } = port;
        let protocol = match protocol {
            Protocol::Tcp => ProtocolForm::Tcp,
            Protocol::Udp => ProtocolForm::Udp,
            Protocol::Sctp => ProtocolForm::Sctp,
        };
        Self { name: name.clone(), protocol, port: *port }
    }
}

impl From<PortForm> for NamedPort {
    fn from(form: PortForm) -> Self {
        let protocol = match form.protocol {
            ProtocolForm::Tcp => Protocol::Tcp,
            ProtocolForm::Udp => Protocol::Udp,
            ProtocolForm::Sctp => Protocol::Sctp,
        };
        Self { name: form.name, protocol, port: form.port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> (PodName, Pod) {
        let port = |name: &str, protocol, port| NamedPort { name: name.to_owned(), protocol, port };
        let ports = vec![
            port("web", Protocol::Tcp, 80),
            port("dns", Protocol::Udp, 53),
            port("sig", Protocol::Sctp, 9),
        ];
        let pod = Pod { labels: [("app", "web")].into(), ports, ..Pod::default() };
        (PodName { namespace: "x".into(), name: "a (gone 3)".into() }, pod)
    }

    #[test]
    fn what_is_noted_is_read_as_it_was() {
        let (name, pod) = pod();
        let noted = GonePod::of(&name, &pod).expect("little");
        let text = serde_json::to_string(&noted).expect("written");
        let read: GonePod = serde_json::from_str(&text).expect("read");
        assert_eq!(read.into_pod(), (name, pod));
    }

    #[test]
    fn what_is_too_much_is_not_noted_at_all() {
        let (name, pod) = pod();
        let much = "v".repeat(SIZE_MAX);
        let pod = Pod { labels: [("app", much.as_str())].into(), ..pod };
        assert_eq!(GonePod::of(&name, &pod), None);
    }
}
