//! What the CNI specification says, as far as a chained plugin that changes nothing needs it.
//!
//! The specification, versions 0.3.0 to 1.1.0 (<https://www.cni.dev/docs/spec/>): section 2 for calls
//! and errors, section 5 for results.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sluice_policy::model::PodName;

use crate::cli::agent::DEFAULT_STATE_DIR;

/// Versions that this plugin speaks. Those before 0.3.0 know no chains.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Seconds that ADD waits for the agent where the configuration says nothing.
pub const DEFAULT_TIMEOUT_SECONDS: u64 = 10;

/// The longest that it may be told to: runtimes give a pod's start minutes, not hours.
pub const TIMEOUT_SECONDS_MAX: u64 = 120;

/// Error codes of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// `cniVersion` is none of [`VERSIONS`].
    IncompatibleVersion = 1,
    /// The container is not known.
    UnknownContainer = 3,
    /// A variable of the environment is missing or wrong.
    InvalidEnvironment = 4,
    /// Reading or writing failed.
    Io = 5,
    /// What was read is not of the expected form.
    Decode = 6,
    /// The configuration is not valid.
    InvalidConfiguration = 7,
    /// Something that passes; the runtime should try again.
    TryAgainLater = 11,
    /// Ours, above the specification's: the pod's policies are not in force.
    NotEnforced = 100,
}

/// An error, as the specification wants it on standard output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {details}")]
pub struct CniError {
    /// What kind.
    pub code: Code,
    /// In short.
    pub message: &'static str,
    /// What exactly, and what to do.
    pub details: String,
}

impl CniError {
    /// An error.
    pub fn new(code: Code, message: &'static str, details: impl ToString) -> Self {
        Self { code, message, details: details.to_string() }
    }

    /// As JSON, in the form of `version`.
    pub fn to_json(&self, version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Form<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
            details: &'a str,
        }
        let form = Form {
            cni_version: version,
            code: self.code as u32,
            msg: self.message,
            details: &self.details,
        };
        serde_json::to_string(&form).expect("strings and a number")
    }
}

/// The configuration that a plugin reads from standard input. Fields that others read are none of ours.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Version of the specification that the runtime speaks.
    #[serde(default)]
    pub cni_version: Option<String>,
    /// What the plugin before us has returned, as it was written.
    #[serde(default)]
    pub prev_result: Option<Box<RawValue>>,
    /// State directory of the agent, as the node sees it.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Seconds that ADD waits for the pod's policies.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
    /// GC: the attachments that are still there.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
}

fn default_state_dir() -> PathBuf {
    DEFAULT_STATE_DIR.into()
}

const fn default_timeout() -> u64 {
    DEFAULT_TIMEOUT_SECONDS
}

/// A container on a network.
#[derive(Debug, Deserialize)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
}

impl Configuration {
    /// From standard input.
    ///
    /// # Errors
    /// It is no configuration, or of a version that is not spoken.
    pub fn read(text: &str) -> Result<Self, CniError> {
        let configuration: Self = serde_json::from_str(text).map_err(|error| {
            CniError::new(Code::Decode, "cannot read the network configuration", error)
        })?;
        // A configuration without the field is one of version 0.1.0 (section 1 of that version).
        let version = configuration.cni_version.as_deref().unwrap_or("0.1.0");
        if !VERSIONS.contains(&version) {
            let details = format!(
                "cniVersion {version} is none of {}: give the network configuration one of them",
                VERSIONS.join(", ")
            );
            return Err(CniError::new(Code::IncompatibleVersion, "incompatible version", details));
        }
        if !(1..=TIMEOUT_SECONDS_MAX).contains(&configuration.timeout_seconds) {
            let details = format!("timeoutSeconds must be from 1 to {TIMEOUT_SECONDS_MAX}");
            return Err(CniError::new(
                Code::InvalidConfiguration,
                "invalid configuration",
                details,
            ));
        }
        Ok(configuration)
    }
}

/// A result, as far as it says which addresses the container got. Every version has these fields.
#[derive(Debug, Deserialize)]
struct ResultForm {
    #[serde(default)]
    interfaces: Vec<InterfaceForm>,
    #[serde(default)]
    ips: Vec<AddressForm>,
}

#[derive(Debug, Deserialize)]
struct InterfaceForm {
    #[serde(default)]
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct AddressForm {
    address: IpNet,
    #[serde(default)]
    interface: Option<usize>,
}

/// The addresses that a result gives the container on its interface `interface`, the first of each
/// family, as the kubelet takes them for the pod's. One that names no interface counts.
///
/// # Errors
/// It is no result, or gives none.
pub fn addresses(result: &RawValue, interface: &str) -> Result<Vec<IpAddr>, CniError> {
    let invalid = |details: String| CniError::new(Code::Decode, "cannot read prevResult", details);
    let form: ResultForm =
        serde_json::from_str(result.get()).map_err(|error| invalid(error.to_string()))?;
    let is_there = |index: usize| {
        let of = form.interfaces.get(index);
        of.is_some_and(|of| of.name == interface && !of.sandbox.is_empty())
    };
    let mut by_family = BTreeMap::new();
    for ip in form.ips.iter().filter(|ip| ip.interface.is_none_or(is_there)) {
        let address = ip.address.addr();
        by_family.entry(address.is_ipv6()).or_insert(address);
    }
    if by_family.is_empty() {
        return Err(invalid(format!(
            "it gives no address on {interface}: this plugin stands behind one that does"
        )));
    }
    Ok(by_family.into_values().collect())
}

/// The pod that a container is of, from `CNI_ARGS` (`K8S_POD_NAMESPACE=x;K8S_POD_NAME=a;…`), and its UID
/// where the runtime says it.
///
/// # Errors
/// It is no pod's.
pub fn pod(arguments: &str) -> Result<(PodName, Option<String>), CniError> {
    let pairs: BTreeMap<&str, &str> =
        arguments.split(';').filter_map(|pair| pair.split_once('=')).collect();
    let get = |key: &str| pairs.get(key).filter(|value| !value.is_empty());
    match (get("K8S_POD_NAMESPACE"), get("K8S_POD_NAME")) {
        (Some(&namespace), Some(&name)) => {
            let name = PodName { namespace: namespace.into(), name: name.into() };
            Ok((name, get("K8S_POD_UID").map(|uid| (*uid).to_owned())))
        }
        _ => Err(CniError::new(
            Code::InvalidEnvironment,
            "not a pod",
            "CNI_ARGS names no K8S_POD_NAMESPACE and K8S_POD_NAME: this plugin is for the containers \
             of a kubelet",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).expect("JSON")
    }

    #[test]
    fn a_configuration_has_defaults_and_its_version_must_be_spoken() {
        let read = Configuration::read(r#"{"cniVersion":"1.0.0","name":"n","type":"sluice-cni"}"#);
        let configuration = read.expect("valid");
        assert_eq!(configuration.timeout_seconds, 10);
        assert_eq!(configuration.state_dir, PathBuf::from("/run/sluice"));
        for text in [r#"{"name":"n"}"#, r#"{"cniVersion":"0.2.0"}"#, r#"{"cniVersion":"2.0.0"}"#] {
            let error = Configuration::read(text).expect_err("not spoken");
            assert_eq!(error.code, Code::IncompatibleVersion, "{text}");
        }
        for seconds in ["0", "121"] {
            let text = format!(r#"{{"cniVersion":"1.0.0","timeoutSeconds":{seconds}}}"#);
            let error = Configuration::read(&text).expect_err("out of bounds");
            assert_eq!(error.code, Code::InvalidConfiguration);
        }
        assert_eq!(Configuration::read("{").expect_err("no JSON").code, Code::Decode);
    }

    #[test]
    fn the_addresses_are_those_of_the_containers_interface_one_of_each_family() {
        let result = raw(r#"{"interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/n"}],
            "ips":[{"address":"10.0.0.254/24","interface":0},{"address":"10.0.0.1/24","interface":1},
            {"address":"10.0.0.2/24","interface":1},{"address":"fd00::1/64"}]}"#);
        let found = addresses(&result, "eth0").expect("addresses");
        let expected: Vec<IpAddr> = vec![[10, 0, 0, 1].into(), "fd00::1".parse().expect("v6")];
        assert_eq!(found, expected);
        for text in [r#"{"ips":[]}"#, r#"{"ips":[{"address":"x"}]}"#, "[]"] {
            let error = addresses(&raw(text), "eth0").expect_err("no address");
            assert_eq!(error.code, Code::Decode, "{text}");
        }
    }

    #[test]
    fn a_pod_is_named_by_the_kubelets_arguments() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=x;K8S_POD_NAME=a;K8S_POD_UID=u-1";
        let (name, uid) = pod(text).expect("a pod");
        assert_eq!((name.to_string().as_str(), uid.as_deref()), ("x/a", Some("u-1")));
        for text in ["", "K8S_POD_NAME=a", "K8S_POD_NAMESPACE=;K8S_POD_NAME=a"] {
            assert_eq!(pod(text).expect_err("no pod").code, Code::InvalidEnvironment);
        }
    }

    #[test]
    fn an_error_is_of_the_specifications_form() {
        let error = CniError::new(Code::TryAgainLater, "short", "long \"quoted\"");
        assert_eq!(
            error.to_json("1.0.0"),
            r#"{"cniVersion":"1.0.0","code":11,"msg":"short","details":"long \"quoted\""}"#
        );
    }
}
