//! The manifests that a command is given.

use std::path::PathBuf;

use clap::Args;
use sluice_policy::lint;

use super::Failure;
use crate::cluster::{AddressPlan, Cluster};
use crate::manifest::{self, Placed, Warning};

/// Arguments that name manifests.
#[derive(Debug, Args)]
pub struct InputArguments {
    /// Manifests: files, directories (searched for *.yaml, *.yml and *.json), or - for standard input
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// Manifests without an error among them.
#[derive(Debug)]
pub struct Input {
    /// The objects.
    pub objects: Vec<Placed>,
    /// What to know about them.
    pub warnings: Vec<Warning>,
}

impl InputArguments {
    /// Reads them; warnings go to standard error.
    ///
    /// # Errors
    /// [`Failure::Usage`] with everything that is wrong.
    pub fn load(&self) -> Result<Input, Failure> {
        let input = self.load_quietly()?;
        for warning in &input.warnings {
            eprintln!("warning: {warning}");
        }
        Ok(input)
    }

    /// The same without a word about warnings: for reading again.
    ///
    /// # Errors
    /// [`Failure::Usage`] with everything that is wrong.
    pub fn load_quietly(&self) -> Result<Input, Failure> {
        let loaded = manifest::load(&self.paths);
        match loaded.errors.as_slice() {
            [] => {
                let mut input = Input { objects: loaded.objects, warnings: loaded.warnings };
                // Where there is no cluster, the command itself says why.
                if let Ok(cluster) = input.cluster() {
                    input.warnings.extend(policy_warnings(&cluster));
                }
                Ok(input)
            }
            errors => Err(Failure::Usage(all_problems(errors))),
        }
    }
}

impl Input {
    /// The cluster that they describe.
    ///
    /// # Errors
    /// [`Failure::Usage`] where it cannot be made.
    pub fn cluster(&self) -> Result<Cluster, Failure> {
        let objects = self.objects.iter().map(|placed| &placed.object);
        Cluster::from_objects(objects, &mut AddressPlan::default()).map_err(Failure::usage)
    }
}

/// What is valid in the policies and yet hardly meant.
fn policy_warnings(cluster: &Cluster) -> impl Iterator<Item = Warning> {
    lint::warnings(&cluster.world).into_iter().map(|warning| Warning {
        object: warning.policy.to_string(),
        field: warning.field,
        message: warning.message,
    })
}

/// Every problem on its line, under a heading where there are several.
pub fn all_problems(problems: &[manifest::Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        many => {
            let lines: Vec<String> = many.iter().map(|problem| format!("  {problem}")).collect();
            format!("{} errors in the input:\n{}", many.len(), lines.join("\n"))
        }
    }
}
