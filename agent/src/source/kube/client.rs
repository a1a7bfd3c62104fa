//! How the API server is reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::kube::client::ClientBuilder;
use ::kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use ::kube::{Client, Config};

use super::pace::PaceLayer;
use super::watch::SILENCE_MAX;

/// For a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nothing arrives for so long is dead. Above the time after which a silent watch
/// is asked for anew.
const READ_TIMEOUT: Duration = Duration::from_secs(SILENCE_MAX as u64 + 5);

/// Why it is not known how to reach the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not in a pod with a service account, and no file given.
    #[error("{0}: this is no pod with a service account; give --kubeconfig FILE")]
    NotInCluster(#[source] InClusterError),
    /// The file cannot be used.
    #[error("--kubeconfig {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: KubeconfigError,
    },
}

/// From a kubeconfig file, or the pod's service account where none is given.
///
/// # Errors
/// [`ConfigError`]. The API server itself is not asked yet.
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, ConfigError> {
    let mut config = match kubeconfig {
        None => Config::incluster().map_err(ConfigError::NotInCluster)?,
        Some(path) => {
            let error = |error| ConfigError::File { path: path.to_owned(), error };
            let file = Kubeconfig::read_from(path).map_err(error)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.map_err(error)?
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    // Its attempts are up to minutes apart, and nobody learns of them; see `pace`.
    config.default_retry = false;
    Ok(config)
}

/// A client whose requests keep a pace; see [`PaceLayer`].
///
/// # Errors
/// What is wrong with the configuration: certificates, say.
pub(super) fn paced(config: &Config, layer: &PaceLayer) -> Result<Client, ::kube::Error> {
    Ok(ClientBuilder::try_from(config.clone())?.with_layer(layer).build())
}
