//! Objects in the API server of a test: made, changed, deleted, looked at.

use std::net::Ipv4Addr;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Error};
use serde_json::{Value, json};

use super::ApiServer;

/// Requests under way together.
const AT_ONCE: usize = 32;

/// The API's name for a kind's collection and its group.
fn resource(kind: &str) -> ApiResource {
    let (group, version) = match kind {
        "DaemonSet" => ("apps", "v1"),
        "NetworkPolicy" => ("networking.k8s.io", "v1"),
        "EndpointSlice" => ("discovery.k8s.io", "v1"),
        "Event" => ("events.k8s.io", "v1"),
        "ClusterRole" | "ClusterRoleBinding" => ("rbac.authorization.k8s.io", "v1"),
        "TokenRequest" => ("authentication.k8s.io", "v1"),
        "SubjectAccessReview" => ("authorization.k8s.io", "v1"),
        _ => ("", "v1"),
    };
    let plural = kind.to_lowercase();
    let plural = match plural.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{plural}s"),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural)
}

/// `namespace/name`, or a name alone for what has no namespace.
fn api(client: Client, kind: &str, name: &str) -> (Api<DynamicObject>, String) {
    let resource = resource(kind);
    match name.split_once('/') {
        Some((namespace, name)) => {
            (Api::namespaced_with(client, namespace, &resource), name.to_owned())
        }
        None => (Api::all_with(client, &resource), name.to_owned()),
    }
}

fn name_of(object: &Value) -> (String, String) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let name = text("/metadata/name").expect("a name");
    let name = match text("/metadata/namespace") {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    };
    (text("/kind").expect("a kind").to_owned(), name)
}

impl ApiServer {
    /// Makes an object, or changes it to what is given.
    ///
    /// # Panics
    /// Where the server refuses it.
    pub fn apply(&self, object: Value) {
        let (kind, name) = name_of(&object);
        let (api, own) = api(self.client(), &kind, &name);
        let shown = object.to_string();
        let applied = self.run(async move {
            let parameters = PatchParams::apply("test").force();
            api.patch(&own, &parameters, &Patch::Apply(&object)).await
        });
        applied.unwrap_or_else(|error| panic!("{shown}: {error}"));
    }

    /// Makes a pod with its status, as scheduler and kubelet would have it.
    ///
    /// # Panics
    /// Where the server refuses it.
    pub fn apply_pod(&self, pod: Value) {
        let (kind, name) = name_of(&pod);
        let status = json!({"status": pod["status"]});
        self.apply(pod);
        let (api, own) = api(self.client(), &kind, &name);
        let done = self.run(async move {
            api.patch_status(&own, &PatchParams::default(), &Patch::Merge(&status)).await
        });
        done.unwrap_or_else(|error| panic!("status of {name}: {error}"));
    }

    /// Makes or changes many objects, several at a time; pods with their status.
    ///
    /// # Panics
    /// Where the server refuses one.
    pub fn apply_all(&self, objects: Vec<Value>) {
        let client = self.client();
        let apply = move |object: Value| {
            let (kind, name) = name_of(&object);
            let (api, own) = api(client.clone(), &kind, &name);
            async move {
                let status = object.get("status").map(|status| json!({"status": status}));
                let parameters = PatchParams::apply("test").force();
                api.patch(&own, &parameters, &Patch::Apply(&object)).await?;
                if let Some(status) = status {
                    let parameters = PatchParams::default();
                    api.patch_status(&own, &parameters, &Patch::Merge(&status)).await?;
                }
                Ok::<(), Error>(())
            }
        };
        self.at_once(objects.into_iter().map(apply));
    }

    /// Deletes many objects of a kind, several at a time.
    ///
    /// # Panics
    /// Where one is not there.
    pub fn delete_all(&self, kind: &str, names: Vec<String>) {
        let client = self.client();
        let kind = kind.to_owned();
        let delete = move |name: String| {
            let (api, own) = api(client.clone(), &kind, &name);
            async move {
                let parameters = DeleteParams::default().grace_period(0);
                api.delete(&own, &parameters).await.map(|_| ())
            }
        };
        self.at_once(names.into_iter().map(delete));
    }

    fn at_once<F>(&self, requests: impl Iterator<Item = F> + Send + 'static)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let done = self.run(async move {
            let requests = stream::iter(requests).buffer_unordered(AT_ONCE);
            requests.try_collect::<Vec<()>>().await
        });
        done.expect("the server takes all of them");
    }

    /// What the server answers to a path, as text.
    ///
    /// # Panics
    /// Where it does not answer.
    pub fn text(&self, path: &str) -> String {
        let client = self.client();
        let request = http::Request::get(path).body(Vec::new()).expect("a request");
        self.run(async move { client.request_text(request).await }).expect("an answer")
    }

    /// Changes a part of an object.
    ///
    /// # Panics
    /// Where the server refuses it.
    pub fn merge(&self, kind: &str, name: &str, part: Value) {
        let (api, own) = api(self.client(), kind, name);
        let done = self.run(async move {
            api.patch(&own, &PatchParams::default(), &Patch::Merge(&part)).await
        });
        done.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }

    /// Deletes an object at once.
    ///
    /// # Panics
    /// Where it is not there.
    pub fn delete(&self, kind: &str, name: &str) {
        let (api, own) = api(self.client(), kind, name);
        let parameters = DeleteParams::default().grace_period(0);
        let done = self.run(async move { api.delete(&own, &parameters).await });
        done.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }

    /// An object, where it is there.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let (api, own) = api(self.client(), kind, name);
        let found = self.run(async move { api.get_opt(&own).await }).ok()??;
        serde_json::to_value(found).ok()
    }

    /// The Events about an object.
    ///
    /// # Panics
    /// Where the server does not answer.
    pub fn events(&self, kind: &str, name: &str) -> Vec<Value> {
        let namespace = name.split_once('/').map_or("default", |(namespace, _)| namespace);
        let own = name.split_once('/').map_or(name, |(_, own)| own);
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client(), namespace, &resource("Event"));
        let fields = format!("regarding.kind={kind},regarding.name={own}");
        let listed =
            self.run(async move { api.list(&ListParams::default().fields(&fields)).await });
        let listed = listed.expect("a list of Events");
        listed.items.into_iter().map(|event| serde_json::to_value(event).expect("JSON")).collect()
    }

    /// A token of a service account.
    ///
    /// # Panics
    /// Where there is no such account.
    pub fn token(&self, account: &str) -> String {
        let (namespace, name) = account.split_once('/').expect("namespace/name");
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {},
        });
        let answer = self.post(&path, &body).expect("a token");
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// True where somebody may do something, as `kubectl auth can-i` asks it.
    ///
    /// # Panics
    /// Where the server does not answer.
    pub fn can(&self, user: &str, verb: &str, group: &str, plural: &str) -> bool {
        let body = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": user,
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {
                    "verb": verb, "group": group, "resource": plural, "namespace": "default",
                },
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = self.post(path, &body).expect("an answer");
        answer["status"]["allowed"].as_bool().expect("an answer")
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Error> {
        let client = self.client();
        let body = serde_json::to_vec(body).expect("JSON");
        let request = http::Request::post(path)
            .header("content-type", "application/json")
            .body(body)
            .expect("a request");
        self.run(async move { client.request::<Value>(request).await })
    }
}

/// A namespace.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A node.
pub fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

/// A running pod in the namespace `x`.
pub fn pod(name: &str, node: &str, address: Ipv4Addr, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "x", "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        "status": {
            "phase": "Running", "podIP": address.to_string(),
            "podIPs": [{"ip": address.to_string()}],
        },
    })
}

/// A policy in the namespace `x` by which pods of one `app` take a port, TCP and UDP, from another.
pub fn allow(name: &str, to: &str, from: &str, port: u16) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "x"},
        "spec": {
            "podSelector": {"matchLabels": {"app": to}},
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"app": from}}}],
                "ports": [{"port": port, "protocol": "TCP"}, {"port": port, "protocol": "UDP"}],
            }],
        },
    })
}
