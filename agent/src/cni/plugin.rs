//! The verbs of the plugin, as questions to the agent.
//!
//! | verb | asks | fails where |
//! |---|---|---|
//! | ADD | admit the pod, and wait until it is enforced | it is not in time, or no agent answers |
//! | CHECK | is the pod enforced? | it is not, or no agent answers |
//! | DEL | forget what was said at ADD | never |
//! | GC | forget all but these | never |
//! | STATUS | nobody | the configuration is not valid |
//! | VERSION | nobody | never |
//!
//! STATUS does not ask whether an agent is there. By its answer a runtime (containerd from 2.0 on) has the
//! node ready or not, and the pods of a node that is not are taken out of their Services, and evicted after
//! five minutes: enforced pods, each time that the agent is replaced. Without an agent ADD fails, for new
//! pods alone, and says why.

use std::collections::BTreeSet;
use std::env;
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::value::RawValue;

use super::NAME;
use super::spec::{self, CniError, Code, Configuration, VERSIONS};
use crate::control::{self, AskError, Request, Response};
use crate::endpoint::admitted::Attachment;
use crate::run::admit::Admission;
use crate::status::EnforcementState;

/// An agent that is there answers what needs no waiting in this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest configuration in bytes that is read: a result with every address a pod can have is far below.
const INPUT_MAX: u64 = 4 << 20;

const NOT_IN_FORCE: &str = "the pod's policies are not in force";

/// The environment of a call.
#[derive(Clone, Debug, Default)]
struct Environment {
    command: String,
    container: String,
    netns: String,
    interface: String,
    arguments: String,
}

impl Environment {
    fn read() -> Self {
        let get = |name| env::var(name).unwrap_or_default();
        Self {
            command: get("CNI_COMMAND"),
            container: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            interface: get("CNI_IFNAME"),
            arguments: get("CNI_ARGS"),
        }
    }

    /// # Errors
    /// One of them is not set.
    fn require(&self, named: &[(&str, &str)]) -> Result<(), CniError> {
        match named.iter().find(|(_, value)| value.is_empty()) {
            None => Ok(()),
            Some((name, _)) => {
                let details = format!("{name} is not set");
                Err(CniError::new(Code::InvalidEnvironment, "invalid environment", details))
            }
        }
    }
}

/// Serves one call: the environment and standard input in, standard output and the exit status out.
pub fn main() -> ExitCode {
    let environment = Environment::read();
    if environment.command.is_empty() {
        eprintln!(
            "{NAME} is a CNI plugin, which container runtimes call; it speaks versions {} of the \
             specification. `sluice cni --help` says how to install it.",
            VERSIONS.join(", ")
        );
        return ExitCode::from(2);
    }
    let mut text = String::new();
    let read = io::stdin().lock().take(INPUT_MAX).read_to_string(&mut text);
    let outcome = match read {
        Ok(_) => call(&environment, &text),
        Err(error) => Err(CniError::new(Code::Io, "cannot read standard input", error)),
    };
    let (text, status) = match &outcome {
        Ok(text) => (text.clone(), ExitCode::SUCCESS),
        Err(error) => (error.to_json(&version_for_answer(&text)), ExitCode::FAILURE),
    };
    // Whoever does not read the answer knows the exit status.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    status
}

/// The version that an answer is written in: that of the question where it is spoken.
fn version_for_answer(text: &str) -> String {
    let asked = serde_json::from_str::<Configuration>(text).ok().and_then(|c| c.cni_version);
    let newest = VERSIONS[VERSIONS.len() - 1];
    asked.filter(|version| VERSIONS.contains(&version.as_str())).unwrap_or_else(|| newest.into())
}

/// What to print; nothing for most verbs.
fn call(environment: &Environment, text: &str) -> Result<String, CniError> {
    if environment.command == "VERSION" {
        let version = version_for_answer(text);
        let versions = serde_json::json!({"cniVersion": version, "supportedVersions": VERSIONS});
        return Ok(versions.to_string());
    }
    match environment.command.as_str() {
        "ADD" => add(environment, &Configuration::read(text)?),
        "CHECK" => check(environment, &Configuration::read(text)?),
        "DEL" => {
            forget(text, |_| Some(Request::Withdraw { container: environment.container.clone() }));
            Ok(String::new())
        }
        "GC" => {
            forget(text, |configuration| {
                let valid = configuration.valid_attachments.as_ref()?;
                let containers: BTreeSet<String> =
                    valid.iter().map(|attachment| attachment.container.clone()).collect();
                Some(Request::Retain { containers })
            });
            Ok(String::new())
        }
        "STATUS" => Configuration::read(text).map(|_| String::new()),
        other => {
            let details =
                format!("CNI_COMMAND {other} is none of ADD, DEL, CHECK, GC, STATUS, VERSION");
            Err(CniError::new(Code::InvalidEnvironment, "invalid environment", details))
        }
    }
}

fn previous(configuration: &Configuration) -> Result<&RawValue, CniError> {
    configuration.prev_result.as_deref().ok_or_else(|| {
        CniError::new(
            Code::InvalidConfiguration,
            "no prevResult",
            "this plugin must stand behind one that gives the pod its interface, in a list of plugins",
        )
    })
}

fn add(environment: &Environment, configuration: &Configuration) -> Result<String, CniError> {
    let Environment { container, netns, interface, arguments, .. } = environment;
    environment.require(&[
        ("CNI_CONTAINERID", container),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", interface),
    ])?;
    let (pod, uid) = spec::pod(arguments)?;
    let result = previous(configuration)?;
    let addresses = spec::addresses(result, interface)?;
    let timeout = Duration::from_secs(configuration.timeout_seconds);
    let admission = Admission {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid,
        attachment: Attachment { container: container.clone(), addresses },
        timeout_ms: configuration.timeout_seconds * 1000,
    };
    let answer = control::ask(
        &configuration.state_dir,
        Request::Admit(admission),
        timeout.saturating_add(PATIENCE),
    );
    match answer {
        // What the plugin before us has said, unchanged.
        Ok(Response::Admitted { .. }) => Ok(result.get().to_owned()),
        other => {
            let why = in_words(other);
            let details = format!(
                "{pod} does not start before they are, and is tried again; the agent on this node: \
                 {why}"
            );
            Err(CniError::new(Code::TryAgainLater, NOT_IN_FORCE, details))
        }
    }
}

fn check(environment: &Environment, configuration: &Configuration) -> Result<String, CniError> {
    let (pod, _) = spec::pod(&environment.arguments)?;
    let status = match control::ask(&configuration.state_dir, Request::Status, PATIENCE) {
        Ok(Response::Status(status)) => status,
        other => {
            let details = in_words(other);
            return Err(CniError::new(Code::TryAgainLater, "no agent to ask", details));
        }
    };
    let name = pod.to_string();
    let Some(endpoint) = status.endpoints.iter().find(|endpoint| endpoint.pod == name) else {
        let details = format!("the agent on this node knows of no pod {name} here");
        return Err(CniError::new(Code::UnknownContainer, "unknown pod", details));
    };
    if endpoint.state == EnforcementState::NotEnforced {
        let reason = endpoint.reason.as_deref().unwrap_or_default();
        let details = format!("{name}: {reason}");
        return Err(CniError::new(Code::NotEnforced, NOT_IN_FORCE, details));
    }
    Ok(String::new())
}

/// Tells an agent that something is gone. One that is not there has nothing to forget that it would not
/// find out: DEL and GC must succeed whatever happens, or pods could not be removed.
fn forget(text: &str, request: impl FnOnce(&Configuration) -> Option<Request>) {
    let asked = Configuration::read(text).map_err(|error| error.to_string()).and_then(|conf| {
        let Some(request) = request(&conf) else { return Ok(()) };
        let answer = control::ask(&conf.state_dir, request, PATIENCE);
        answer.map(|_| ()).map_err(|error| error.to_string())
    });
    if let Err(error) = asked {
        eprintln!("{NAME}: {error}");
    }
}

fn in_words(answer: Result<Response, AskError>) -> String {
    match answer {
        Ok(other) => AskError::Unexpected(format!("{other:?}")).to_string(),
        Err(AskError::Agent(reason)) => reason,
        Err(error @ AskError::NoAgent(_)) => {
            format!("{error}: is the sluice DaemonSet's pod on this node running?")
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
