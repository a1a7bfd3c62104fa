//! The API server, as an end-to-end run uses it: objects as JSON, commands and standard input of pods.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, ApiResource, AttachParams, AttachedProcess, DeleteParams, DynamicObject, GroupVersionKind,
    ListParams, Patch, PatchParams,
};
use kube::core::Status;
use kube::discovery::{Discovery, Scope};
use kube::{Client, Config, Error};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

/// Who writes the objects of a run, in the words of server-side apply.
const MANAGER: &str = "sluice-e2e";
/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(200);

/// A cluster.
#[derive(Clone)]
pub struct Kube {
    client: Client,
    discovery: std::sync::Arc<Discovery>,
}

/// What a command in a pod has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// It ended well.
    pub success: bool,
    /// Standard output.
    pub out: String,
    /// Standard error, and what the API server says of the end.
    pub error: String,
}

impl Kube {
    /// Connects to a cluster.
    ///
    /// # Errors
    /// The configuration cannot be used, or the API server does not answer.
    pub async fn connect(mut config: Config) -> anyhow::Result<Self> {
        // What is attached to a pod may be silent for long.
        config.read_timeout = None;
        let server = config.cluster_url.clone();
        let client = Client::try_from(config).context("cannot make a client")?;
        let discovery = Discovery::new(client.clone()).run().await;
        let discovery = discovery.with_context(|| format!("the API server {server}"))?;
        Ok(Self { client, discovery: discovery.into() })
    }

    /// The kind of an object and where its kind lives.
    fn resource(&self, api_version: &str, kind: &str) -> anyhow::Result<(ApiResource, Scope)> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let known = self.discovery.resolve_gvk(&GroupVersionKind::gvk(group, version, kind));
        let (resource, capabilities) =
            known.with_context(|| format!("this cluster has no {kind} of {api_version}"))?;
        Ok((resource, capabilities.scope))
    }

    fn api(&self, api_version: &str, kind: &str, namespace: &str) -> anyhow::Result<Objects> {
        let (resource, scope) = self.resource(api_version, kind)?;
        Ok(match (scope, namespace) {
            (Scope::Cluster, _) | (_, "") => Api::all_with(self.client.clone(), &resource),
            (Scope::Namespaced, namespace) => {
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
        })
    }

    /// The API of an object's kind, and its name.
    fn place<'a>(&self, object: &'a Value) -> anyhow::Result<(Objects, &'a str)> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str);
        let (version, kind) = (text("/apiVersion"), text("/kind"));
        let (version, kind) = version.zip(kind).context("an object has no apiVersion or kind")?;
        let name = text("/metadata/name").with_context(|| format!("a {kind} has no name"))?;
        let namespace = text("/metadata/namespace").unwrap_or_default();
        Ok((self.api(version, kind, namespace)?, name))
    }

    /// Creates an object, or makes it what is given: server-side apply.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn apply(&self, object: &Value) -> anyhow::Result<()> {
        let (api, name) = self.place(object)?;
        let parameters = PatchParams::apply(MANAGER).force();
        let applied = api.patch(name, &parameters, &Patch::Apply(object)).await;
        applied.with_context(|| format!("cannot apply {}", title(object)))?;
        Ok(())
    }

    /// Changes a part of an object.
    ///
    /// # Errors
    /// It is not there, or the API server refuses it.
    pub async fn merge(&self, object: &Value, part: &Value) -> anyhow::Result<()> {
        let (api, name) = self.place(object)?;
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(part)).await;
        patched.with_context(|| format!("cannot change {}", title(object)))?;
        Ok(())
    }

    /// Deletes an object; true where it was there.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn delete(&self, object: &Value) -> anyhow::Result<bool> {
        let (api, name) = self.place(object)?;
        match api.delete(name, &DeleteParams::background()).await {
            Ok(_) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot delete {}", title(object))),
        }
    }

    /// The object as it is now, none where it is not there. Only its name is looked at.
    ///
    /// # Errors
    /// The API server does not say.
    pub async fn get(&self, object: &Value) -> anyhow::Result<Option<Value>> {
        let (api, name) = self.place(object)?;
        let found = api.get_opt(name).await;
        let found = found.with_context(|| format!("cannot read {}", title(object)))?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// All objects of a kind in a namespace (everywhere, where that is empty).
    ///
    /// # Errors
    /// The API server does not say.
    pub async fn list(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        labels: &str,
    ) -> anyhow::Result<Vec<Value>> {
        let api = self.api(api_version, kind, namespace)?;
        let listed = api.list(&ListParams::default().labels(labels)).await;
        let listed = listed.with_context(|| format!("cannot list {kind}s"))?;
        listed.items.into_iter().map(|item| Ok(serde_json::to_value(item)?)).collect()
    }

    /// Waits until an object is as wanted, or is gone where `wanted` takes `None`.
    ///
    /// # Errors
    /// It is not in time; says how `wanted` found it last.
    pub async fn wait(
        &self,
        object: &Value,
        patience: Duration,
        mut wanted: impl FnMut(Option<&Value>) -> Result<(), String>,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let Err(why) = wanted(self.get(object).await?.as_ref()) else { return Ok(()) };
            if begun.elapsed() > patience {
                bail!("{} after {} s: {why}", title(object), patience.as_secs());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What a port of a pod answers to GET, by way of the API server.
    ///
    /// # Errors
    /// It does not answer, or not with success.
    pub async fn get_from_pod(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> anyhow::Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let answer = self.client.request_text(Request::get(&path).body(Vec::new())?).await;
        answer.with_context(|| format!("GET {path}"))
    }

    /// Runs a command in a container.
    ///
    /// # Errors
    /// It cannot be run; one that fails is no error.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> anyhow::Result<Said> {
        let parameters = AttachParams::default().container(container).stdin(false);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let started = pods.exec(pod, command.iter().copied(), &parameters).await;
        let mut running =
            started.with_context(|| format!("cannot run {command:?} in {namespace}/{pod}"))?;
        let (mut out, mut error) = (String::new(), String::new());
        let (stdout, stderr) = (running.stdout(), running.stderr());
        let end = running.take_status().context("a command has a status")?;
        let read_out = async {
            if let Some(mut stream) = stdout {
                stream.read_to_string(&mut out).await?;
            }
            std::io::Result::Ok(())
        };
        let read_error = async {
            if let Some(mut stream) = stderr {
                stream.read_to_string(&mut error).await?;
            }
            std::io::Result::Ok(())
        };
        tokio::try_join!(read_out, read_error)?;
        let end = end.await.with_context(|| format!("{command:?} in {namespace}/{pod}: no end"))?;
        let success = end.status.as_deref() == Some("Success");
        error.push_str(end.message.as_deref().unwrap_or_default());
        Ok(Said { success, out, error })
    }

    /// Takes hold of standard input and output of a container's first process.
    ///
    /// # Errors
    /// There is no such container, or it does not run.
    pub async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> anyhow::Result<AttachedProcess> {
        let parameters = AttachParams::default().container(container).stdin(true).stderr(false);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let attached = pods.attach(pod, &parameters).await;
        attached.with_context(|| format!("cannot attach to {namespace}/{pod}"))
    }
}

type Objects = Api<DynamicObject>;

/// `Service x/web`, as messages name an object.
pub fn title(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    match text("/metadata/namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Api(status) if Status::is_not_found(status))
}
