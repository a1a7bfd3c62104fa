use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use super::*;
use crate::status::{EndpointStatus, Status};

const RESULT: &str = r#"{"cniVersion":"1.0.0",  "ips":[{"address":"10.0.0.1/24"}], "x": 1.50}"#;

fn environment(command: &str) -> Environment {
    Environment {
        command: command.into(),
        container: "c-1".into(),
        netns: "/run/netns/n".into(),
        interface: "eth0".into(),
        arguments: "K8S_POD_NAMESPACE=x;K8S_POD_NAME=a;K8S_POD_UID=u-1".into(),
    }
}

fn configuration(state_dir: &Path) -> String {
    let directory = state_dir.display();
    format!(
        r#"{{"cniVersion":"1.0.0","name":"n","type":"sluice-cni","stateDir":"{directory}",
        "timeoutSeconds":1,"prevResult":{RESULT},
        "cni.dev/valid-attachments":[{{"containerID":"c-2","ifname":"eth0"}}]}}"#
    )
}

/// An agent that is asked once, and answers so.
struct FakeAgent {
    state_dir: tempfile::TempDir,
    thread: JoinHandle<Request>,
}

impl FakeAgent {
    fn answering(response: Response) -> Self {
        let state_dir = tempfile::tempdir().expect("a temporary directory");
        let socket = control::socket_path(state_dir.path());
        let listener = UnixListener::bind(socket).expect("listens");
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asked");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("a line");
            let answer = serde_json::to_string(&response).expect("encodes");
            writeln!(stream, "{answer}").expect("answered");
            serde_json::from_str(&line).expect("a request")
        });
        Self { state_dir, thread }
    }

    /// What the plugin says, and what it has asked.
    fn call(self, command: &str) -> (Result<String, CniError>, Request) {
        let said = call(&environment(command), &configuration(self.state_dir.path()));
        (said, self.thread.join().expect("asked"))
    }
}

/// What the plugin says where no agent is.
fn alone(command: &str) -> Result<String, CniError> {
    let state_dir = tempfile::tempdir().expect("a temporary directory");
    call(&environment(command), &configuration(state_dir.path()))
}

fn status(synced: bool, state: EnforcementState) -> Response {
    let endpoint = EndpointStatus {
        pod: "x/a".into(),
        state,
        reason: Some("no namespace has its address".into()),
        ..EndpointStatus::default()
    };
    let faults = vec!["Pod cannot be watched".into()];
    Response::Status(Box::new(Status {
        synced,
        faults,
        endpoints: vec![endpoint],
        ..Status::default()
    }))
}

#[test]
fn add_tells_the_agent_of_the_pod_and_passes_the_result_through_byte_for_byte() {
    let agent = FakeAgent::answering(Response::Admitted { state: EnforcementState::Enforced });
    let (said, asked) = agent.call("ADD");
    assert_eq!(said.as_deref(), Ok(RESULT));
    let attachment = Attachment { container: "c-1".into(), addresses: vec![[10, 0, 0, 1].into()] };
    let admission = Admission {
        namespace: "x".into(),
        name: "a".into(),
        uid: Some("u-1".into()),
        attachment,
        timeout_ms: 1000,
    };
    assert_eq!(asked, Request::Admit(admission));
}

#[test]
fn add_fails_with_the_agents_reason_and_without_an_agent() {
    let message = "not in 1000 ms: no network namespace".to_owned();
    let (said, _) = FakeAgent::answering(Response::Error { message: message.clone() }).call("ADD");
    let error = said.expect_err("it may not start");
    assert_eq!(error.code, Code::TryAgainLater);
    assert!(error.details.contains(&message) && error.details.contains("x/a"), "{error}");
    let error = alone("ADD").expect_err("no agent");
    assert_eq!(error.code, Code::TryAgainLater);
    assert!(error.details.contains("DaemonSet"), "{error}");
    let (said, _) = FakeAgent::answering(Response::Withdrawn).call("ADD");
    assert!(said.is_err(), "an answer to something else lets nothing start");
}

#[test]
fn add_needs_what_the_specification_says() {
    let text = configuration(Path::new("/nonexistent"));
    for (field, code) in [
        ("container", Code::InvalidEnvironment),
        ("netns", Code::InvalidEnvironment),
        ("interface", Code::InvalidEnvironment),
        ("arguments", Code::InvalidEnvironment),
    ] {
        let mut environment = environment("ADD");
        match field {
            "container" => environment.container.clear(),
            "netns" => environment.netns.clear(),
            "interface" => environment.interface.clear(),
            _ => environment.arguments.clear(),
        }
        assert_eq!(call(&environment, &text).expect_err(field).code, code);
    }
    let unchained = r#"{"cniVersion":"1.0.0","name":"n","type":"sluice-cni"}"#;
    let error = call(&environment("ADD"), unchained).expect_err("nothing before it");
    assert_eq!(error.code, Code::InvalidConfiguration);
    let error = call(&environment("PING"), &text).expect_err("no verb");
    assert_eq!(error.code, Code::InvalidEnvironment);
}

#[test]
fn check_says_whether_the_pod_is_enforced() {
    let (said, asked) =
        FakeAgent::answering(status(true, EnforcementState::Enforced)).call("CHECK");
    assert_eq!((said.as_deref(), asked), (Ok(""), Request::Status));
    let (said, _) = FakeAgent::answering(status(true, EnforcementState::NotEnforced)).call("CHECK");
    let error = said.expect_err("not enforced");
    assert_eq!(error.code, Code::NotEnforced);
    assert!(error.details.contains("no namespace has its address"), "{error}");
    let (said, _) = FakeAgent::answering(Response::Status(Box::default())).call("CHECK");
    assert_eq!(said.expect_err("unknown").code, Code::UnknownContainer);
    assert_eq!(alone("CHECK").expect_err("no agent").code, Code::TryAgainLater);
}

#[test]
fn status_is_about_the_plugin_and_leaves_a_node_ready_while_its_agent_is_replaced() {
    assert_eq!(alone("STATUS").as_deref(), Ok(""));
    let error = call(&environment("STATUS"), r#"{"cniVersion":"9.9"}"#).expect_err("not spoken");
    assert_eq!(error.code, Code::IncompatibleVersion);
}

#[test]
fn del_and_gc_tell_the_agent_and_never_fail() {
    let (said, asked) = FakeAgent::answering(Response::Withdrawn).call("DEL");
    assert_eq!(said.as_deref(), Ok(""));
    assert_eq!(asked, Request::Withdraw { container: "c-1".into() });
    let (said, asked) = FakeAgent::answering(Response::Withdrawn).call("GC");
    assert_eq!(said.as_deref(), Ok(""));
    assert_eq!(asked, Request::Retain { containers: ["c-2".into()].into() });
    for verb in ["DEL", "GC"] {
        assert_eq!(alone(verb).as_deref(), Ok(""));
        assert_eq!(call(&environment(verb), "no JSON").as_deref(), Ok(""));
    }
}

#[test]
fn version_is_told_to_anyone_in_a_version_that_is_spoken() {
    for (text, version) in [("", "1.1.0"), (r#"{"cniVersion":"0.4.0"}"#, "0.4.0")] {
        let said = call(&environment("VERSION"), text).expect("told");
        let value: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(value["cniVersion"], version);
        assert_eq!(value["supportedVersions"], serde_json::json!(VERSIONS));
    }
    assert_eq!(version_for_answer(r#"{"cniVersion":"9.9"}"#), "1.1.0");
}
