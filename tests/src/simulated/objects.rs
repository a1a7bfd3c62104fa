//! A made-up cluster of any size: its objects as an API server sends them, with what the agent has no
//! use for too.
//!
//! Every 30 pods have a namespace, with three policies; a namespace has pods of six apps. So a pod is
//! selected by as much in a large cluster as in a small one, as in clusters that people run.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::node::NODE;
use crate::traffic::OPEN;

/// Path of the collection of all pods.
pub const PODS: &str = "/api/v1/pods";

/// Pods of a namespace.
const PODS_OF_NAMESPACE: u32 = 30;
/// Namespaces of a team.
const NAMESPACES_OF_TEAM: u32 = 10;
/// Apps of a namespace.
const APPS: u32 = 6;
/// Pods on the node of the agent, each in a namespace of its own.
pub const LOCAL: u32 = 30;
/// Services, each with one slice.
const SERVICES: u32 = 300;
/// Pods behind a service.
const BACKENDS: u32 = 3;

/// What API servers keep of who wrote which field: half of an object, and of no use to an agent.
const MANAGED_FIELDS: &str = r#"[{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:app.kubernetes.io/instance":{},"f:pod-template-hash":{},"f:tier":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"6d7f2f3e-0000-4000-8000-000000000000\"}":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"main\"}":{".":{},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:name":{},"f:protocol":{}}},"f:resources":{".":{},"f:limits":{".":{},"f:memory":{}},"f:requests":{".":{},"f:cpu":{},"f:memory":{}}},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:enableServiceLinks":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}},{"manager":"kubelet","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:05Z","fieldsType":"FieldsV1","fieldsV1":{"f:status":{"f:conditions":{"k:{\"type\":\"Ready\"}":{".":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}}},"f:containerStatuses":{},"f:hostIP":{},"f:phase":{},"f:podIP":{},"f:podIPs":{},"f:startTime":{}}},"subresource":"status"}]"#;

/// Makes the JSON of the object of a number, at a resource version.
type Make = Arc<dyn Fn(u32, &str) -> String + Send + Sync>;

/// Objects of a kind.
#[derive(Clone)]
pub struct Collection {
    /// Where a client asks for them.
    pub path: &'static str,
    /// As written in `apiVersion:`.
    pub api_version: &'static str,
    /// As written in `kind:`.
    pub kind: &'static str,
    /// How many there are.
    pub count: u32,
    /// What each is like.
    pub object: Make,
}

/// A cluster of a size.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// Pods in it.
    pub pods: u32,
}

impl Cluster {
    /// Namespaces in it.
    pub const fn namespaces(self) -> u32 {
        self.pods / PODS_OF_NAMESPACE
    }

    /// Policies in it.
    pub const fn policies(self) -> u32 {
        self.pods / 10
    }

    /// All collections.
    ///
    /// # Panics
    /// Where there are not as many namespaces as local pods.
    pub fn collections(self) -> Vec<Collection> {
        assert!(self.namespaces() > LOCAL, "{} pods are too few", self.pods);
        let of = |path, api_version, kind, count, object: Make| Collection {
            path,
            api_version,
            kind,
            count,
            object,
        };
        vec![
            of("/api/v1/namespaces", "v1", "Namespace", self.namespaces(), Arc::new(namespace)),
            of("/api/v1/nodes", "v1", "Node", 1, Arc::new(node)),
            of(PODS, "v1", "Pod", self.pods, Arc::new(move |i, v| self.pod(i).json(v))),
            of(
                "/apis/networking.k8s.io/v1/networkpolicies",
                "networking.k8s.io/v1",
                "NetworkPolicy",
                self.policies(),
                Arc::new(move |i, v| policy(i % self.namespaces(), i / self.namespaces(), v)),
            ),
            of(
                "/api/v1/services",
                "v1",
                "Service",
                SERVICES,
                Arc::new(move |i, v| self.service(i, v)),
            ),
            of(
                "/apis/discovery.k8s.io/v1/endpointslices",
                "discovery.k8s.io/v1",
                "EndpointSlice",
                SERVICES,
                Arc::new(move |i, v| self.slice(i, v)),
            ),
        ]
    }

    /// The pod of a number; the first [`LOCAL`] are on the agent's node.
    pub fn pod(self, number: u32) -> Pod {
        let (namespace, place) = (number % self.namespaces(), number / self.namespaces());
        let (node, address) = if number < LOCAL {
            (NODE.to_owned(), local_address(number))
        } else {
            (format!("node-{}", 2 + number % 1000), remote_address(number))
        };
        let name = format!("app-{}-{number:08x}", place % APPS);
        Pod { namespace, name, app: place % APPS, node, address }
    }

    fn service(self, number: u32, version: &str) -> String {
        let namespace = number % self.namespaces();
        let [_, _, high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(10, 96, high, low);
        let meta = metadata(Some(namespace), &service_name(number), version, "", "");
        format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{meta},"spec":{{"type":"ClusterIP","clusterIP":"{address}","clusterIPs":["{address}"],"ipFamilies":["IPv4"],"selector":{{"app":"app-1"}},"ports":[{{"name":"http","protocol":"TCP","port":80,"targetPort":8080}}]}},"status":{{"loadBalancer":{{}}}}}}"#
        )
    }

    fn slice(self, number: u32, version: &str) -> String {
        let namespace = number % self.namespaces();
        let service = service_name(number);
        let labels = format!(r#""kubernetes.io/service-name":"{service}""#);
        let meta = metadata(Some(namespace), &format!("{service}-x"), version, &labels, "");
        let endpoints: Vec<String> = (0..BACKENDS)
            .map(|backend| {
                // The app of a place: every sixth place of a namespace is one of the same app.
                let pod = self.pod(namespace + (1 + backend * APPS) * self.namespaces());
                format!(
                    r#"{{"addresses":["{}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"nodeName":"{}"}}"#,
                    pod.address, pod.node
                )
            })
            .collect();
        format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{meta},"addressType":"IPv4","endpoints":[{}],"ports":[{{"name":"http","protocol":"TCP","port":8080}}]}}"#,
            endpoints.join(",")
        )
    }
}

/// Address of a local pod.
pub fn local_address(number: u32) -> Ipv4Addr {
    let [.., low] = number.to_be_bytes();
    Ipv4Addr::new(10, 9, 0, 1 + low)
}

/// Address of a pod elsewhere.
pub fn remote_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + number)
}

fn service_name(number: u32) -> String {
    format!("service-{number}")
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Number of its namespace.
    pub namespace: u32,
    /// Name.
    pub name: String,
    /// Number of its app.
    pub app: u32,
    /// Node.
    pub node: String,
    /// Address.
    pub address: Ipv4Addr,
}

impl Pod {
    /// As an API server sends it.
    pub fn json(&self, version: &str) -> String {
        let Self { namespace, name, app, node, address } = self;
        let set = format!("{:010x}", (u64::from(*namespace) * 7919 + u64::from(*app)) * 104_729);
        let tier = ["backend", "frontend", "data"][*app as usize % 3];
        let mut labels = format!(
            r#""app":"app-{app}","app.kubernetes.io/instance":"release-{namespace}","pod-template-hash":"{set}","tier":"{tier}""#
        );
        if app % 2 == 0 {
            labels.push_str(r#","version":"v2""#);
        }
        let owner = format!(
            r#","generateName":"app-{app}-{set}-","ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"app-{app}-{set}","uid":"6d7f2f3e-0000-4000-8000-0{namespace:05}0{app:05}","controller":true,"blockOwnerDeletion":true}}]"#
        );
        let meta = metadata(Some(*namespace), name, version, &labels, &owner);
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{meta},"spec":{{"volumes":[{{"name":"kube-api-access","projected":{{"sources":[{{"serviceAccountToken":{{"expirationSeconds":3607,"path":"token"}}}},{{"configMap":{{"name":"kube-root-ca.crt","items":[{{"key":"ca.crt","path":"ca.crt"}}]}}}}],"defaultMode":420}}}}],"containers":[{{"name":"main","image":"images.example/team/app-{app}:1.2.3","command":["/bin/app","--listen=:8080"],"ports":[{{"name":"http","containerPort":8080,"protocol":"TCP"}}],"env":[{{"name":"RELEASE","value":"release-{namespace}"}},{{"name":"POD_IP","valueFrom":{{"fieldRef":{{"apiVersion":"v1","fieldPath":"status.podIP"}}}}}}],"resources":{{"limits":{{"memory":"256Mi"}},"requests":{{"cpu":"100m","memory":"128Mi"}}}},"volumeMounts":[{{"name":"kube-api-access","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}}],"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","nodeName":"{node}","securityContext":{{}},"schedulerName":"default-scheduler","tolerations":[{{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}}],"priority":0,"enableServiceLinks":true}},"status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:05Z"}},{{"type":"PodScheduled","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:00Z"}}],"hostIP":"192.0.2.1","podIP":"{address}","podIPs":[{{"ip":"{address}"}}],"startTime":"2026-01-01T00:00:00Z","containerStatuses":[{{"name":"main","state":{{"running":{{"startedAt":"2026-01-01T00:00:04Z"}}}},"lastState":{{}},"ready":true,"restartCount":0,"image":"images.example/team/app-{app}:1.2.3","imageID":"images.example/team/app-{app}@sha256:0000000000000000000000000000000000000000000000000000000000000000","containerID":"containerd://0000000000000000000000000000000000000000000000000000000000000000","started":true}}],"qosClass":"Burstable"}}}}"#
        )
    }
}

/// `metadata`, with labels as the inside of their object and further fields as they follow a field.
fn metadata(namespace: Option<u32>, name: &str, version: &str, labels: &str, more: &str) -> String {
    let mut text = format!(
        r#"{{"name":"{name}","uid":"uid-{name}","resourceVersion":"{version}","creationTimestamp":"2026-01-01T00:00:00Z","labels":{{{labels}}}{more},"managedFields":{MANAGED_FIELDS}"#
    );
    if let Some(namespace) = namespace {
        write!(text, r#","namespace":"{}""#, namespace_name(namespace)).expect("a string grows");
    }
    text.push('}');
    text
}

fn namespace_name(number: u32) -> String {
    format!("namespace-{number}")
}

/// `namespace/name` of a pod, as a status names it.
pub fn full_name(pod: &Pod) -> String {
    format!("{}/{}", namespace_name(pod.namespace), pod.name)
}

fn namespace(number: u32, version: &str) -> String {
    let name = namespace_name(number);
    let team = number / NAMESPACES_OF_TEAM;
    let labels = format!(r#""kubernetes.io/metadata.name":"{name}","team":"team-{team}""#);
    let meta = metadata(None, &name, version, &labels, "");
    format!(
        r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{meta},"spec":{{"finalizers":["kubernetes"]}},"status":{{"phase":"Active"}}}}"#
    )
}

fn node(_: u32, version: &str) -> String {
    let meta = metadata(None, NODE, version, "", "");
    format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{meta},"spec":{{}},"status":{{"addresses":[{{"type":"InternalIP","address":"192.0.2.1"}}]}}}}"#
    )
}

/// One of a namespace's policies: app 0 from app 1 of its own namespace; what serves as backend from
/// app 2 of its team, with the way out to a block and to app 3; another app from one namespace.
fn policy(namespace: u32, number: u32, version: &str) -> String {
    let meta = metadata(Some(namespace), &format!("policy-{number}"), version, "", "");
    let team = namespace / NAMESPACES_OF_TEAM;
    let spec = match number % 3 {
        0 => format!(
            r#"{{"podSelector":{{"matchLabels":{{"app":"app-0"}}}},"policyTypes":["Ingress"],"ingress":[{{"from":[{{"podSelector":{{"matchLabels":{{"app":"app-1"}}}}}}],"ports":[{{"protocol":"TCP","port":{OPEN}}},{{"protocol":"UDP","port":{OPEN}}}]}}]}}"#
        ),
        1 => format!(
            r#"{{"podSelector":{{"matchExpressions":[{{"key":"tier","operator":"In","values":["backend"]}}]}},"policyTypes":["Ingress","Egress"],"ingress":[{{"from":[{{"namespaceSelector":{{"matchLabels":{{"team":"team-{team}"}}}},"podSelector":{{"matchLabels":{{"app":"app-2"}}}}}}],"ports":[{{"protocol":"TCP","port":8080}}]}}],"egress":[{{"to":[{{"ipBlock":{{"cidr":"198.18.0.0/15","except":["198.18.7.0/24"]}}}}]}},{{"to":[{{"podSelector":{{"matchLabels":{{"app":"app-3"}}}}}}],"ports":[{{"protocol":"TCP","port":8080}}]}}]}}"#
        ),
        _ => format!(
            r#"{{"podSelector":{{"matchLabels":{{"app":"app-4"}}}},"policyTypes":["Ingress"],"ingress":[{{"from":[{{"namespaceSelector":{{"matchLabels":{{"kubernetes.io/metadata.name":"namespace-{namespace}"}}}}}}]}}]}}"#
        ),
    };
    format!(
        r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{meta},"spec":{spec}}}"#
    )
}
