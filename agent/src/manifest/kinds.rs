//! What sluice makes of a `kind`.

/// Kinds that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1`
    Namespace,
    /// `v1`
    Node,
    /// `v1`
    Pod,
    /// `v1`
    Service,
    /// `discovery.k8s.io/v1`
    EndpointSlice,
    /// `networking.k8s.io/v1`
    NetworkPolicy,
    /// `apps/v1`
    Deployment,
    /// `apps/v1`
    StatefulSet,
    /// `apps/v1`
    DaemonSet,
    /// `apps/v1`
    ReplicaSet,
    /// `batch/v1`
    Job,
    /// `batch/v1`
    CronJob,
    /// `sluice.dev/v1alpha1`
    PolicyTest,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::ReplicaSet,
        Self::Job,
        Self::CronJob,
        Self::PolicyTest,
    ];

    /// As written in `kind:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::ReplicaSet => "ReplicaSet",
            Self::Job => "Job",
            Self::CronJob => "CronJob",
            Self::PolicyTest => "PolicyTest",
        }
    }

    /// As written in `apiVersion:`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::Deployment | Self::StatefulSet | Self::DaemonSet | Self::ReplicaSet => "apps/v1",
            Self::Job | Self::CronJob => "batch/v1",
            Self::PolicyTest => "sluice.dev/v1alpha1",
        }
    }

    /// True for kinds that live in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::PolicyTest)
    }

    /// From `kind:` alone.
    pub fn from_name(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == kind)
    }
}

/// What becomes of a document by its `apiVersion` and `kind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It is read.
    Known(Kind),
    /// A list of objects; the item kind where the list's own name tells it.
    List(Option<Kind>),
    /// Known, but in a version that is not read.
    OtherVersion(Kind),
    /// A network policy of a kind that is not enforced, or a list of them. Never ignored.
    UnsupportedPolicy,
    /// No kind, but nearly this one.
    Misspelled(Kind),
    /// Nothing that policy depends on.
    Irrelevant,
}

/// Groups whose kinds above are meant, in whatever version.
const OWN_GROUPS: [&str; 7] =
    ["", "apps", "batch", "discovery.k8s.io", "networking.k8s.io", "sluice.dev", "extensions"];

/// What a document is, by its `apiVersion` and `kind`.
pub fn meaning(api_version: &str, kind: &str) -> Meaning {
    let group = group_of(api_version);
    if let Some(known) = Kind::from_name(kind) {
        if api_version == known.api_version() {
            return Meaning::Known(known);
        }
        let own_group = group_of(known.api_version());
        // `extensions/v1beta1` held Deployments and NetworkPolicies once.
        if group == own_group || group == "extensions" {
            return Meaning::OtherVersion(known);
        }
    }
    if kind.ends_with("NetworkPolicy") {
        return Meaning::UnsupportedPolicy;
    }
    match kind.strip_suffix("List") {
        Some(item) if OWN_GROUPS.contains(&group) => Meaning::List(Kind::from_name(item)),
        Some(item) if item.ends_with("NetworkPolicy") => Meaning::UnsupportedPolicy,
        _ => nearly(group, kind).map_or(Meaning::Irrelevant, Meaning::Misspelled),
    }
}

/// The kind whose name this is but for case, or in the plural, as the API's paths have it.
fn nearly(group: &str, kind: &str) -> Option<Kind> {
    let kind = kind.to_ascii_lowercase();
    Kind::ALL.into_iter().find(|known| {
        let name = known.as_str().to_ascii_lowercase();
        let plural = name.strip_suffix('y').map_or(format!("{name}s"), |stem| format!("{stem}ies"));
        group_of(known.api_version()) == group && (kind == name || kind == plural)
    })
}

fn group_of(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_kind_of_other_projects_is_recognised() {
        for (api_version, kind) in [
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
            ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
            ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy"),
            ("cilium.io/v2", "CiliumNetworkPolicy"),
            ("cilium.io/v2", "CiliumClusterwideNetworkPolicy"),
            ("projectcalico.org/v3", "NetworkPolicy"),
            ("crd.projectcalico.org/v1", "GlobalNetworkPolicy"),
        ] {
            assert_eq!(meaning(api_version, kind), Meaning::UnsupportedPolicy, "{kind}");
        }
    }

    #[test]
    fn a_kind_of_the_same_name_in_another_group_is_another_kind() {
        assert_eq!(meaning("v1", "Service"), Meaning::Known(Kind::Service));
        assert_eq!(meaning("serving.knative.dev/v1", "Service"), Meaning::Irrelevant);
    }

    #[test]
    fn an_old_version_of_a_known_kind_is_not_ignored() {
        assert_eq!(
            meaning("networking.k8s.io/v1beta1", "NetworkPolicy"),
            Meaning::OtherVersion(Kind::NetworkPolicy)
        );
        assert_eq!(
            meaning("extensions/v1beta1", "NetworkPolicy"),
            Meaning::OtherVersion(Kind::NetworkPolicy)
        );
    }

    #[test]
    fn a_misspelled_kind_is_not_ignored() {
        for (api_version, kind, meant) in [
            ("networking.k8s.io/v1", "networkpolicy", Kind::NetworkPolicy),
            ("networking.k8s.io/v1", "NetworkPolicies", Kind::NetworkPolicy),
            ("v1", "pods", Kind::Pod),
            ("apps/v1", "statefulSet", Kind::StatefulSet),
        ] {
            assert_eq!(meaning(api_version, kind), Meaning::Misspelled(meant), "{kind}");
        }
        assert_eq!(meaning("example.com/v1", "Pods"), Meaning::Irrelevant);
        assert_eq!(meaning("networking.k8s.io/v1", "Ingress"), Meaning::Irrelevant);
    }

    #[test]
    fn a_list_of_unsupported_policies_is_not_ignored() {
        assert_eq!(meaning("cilium.io/v2", "CiliumNetworkPolicyList"), Meaning::UnsupportedPolicy);
        assert_eq!(meaning("example.com/v1", "ThingList"), Meaning::Irrelevant);
    }

    #[test]
    fn lists_tell_the_kind_of_their_items() {
        assert_eq!(meaning("v1", "List"), Meaning::List(None));
        assert_eq!(meaning("v1", "PodList"), Meaning::List(Some(Kind::Pod)));
        assert_eq!(meaning("v1", "ConfigMapList"), Meaning::List(None));
    }
}
