//! Label selectors.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use sluice_policy::model::{Operator, Requirement, Selector};

use super::labels::{self, SyntaxError};
use super::{At, Problems};

/// What is wrong with a label selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// A key or value that the API server refuses.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// An operator that does not exist.
    #[error("unknown operator `{operator}`: must be In, NotIn, Exists or DoesNotExist")]
    UnknownOperator {
        /// The operator.
        operator: String,
    },
    /// `In` or `NotIn` without values.
    #[error("must not be empty for operator {operator}")]
    ValuesMissing {
        /// The operator.
        operator: String,
    },
    /// `Exists` or `DoesNotExist` with values.
    #[error("must be empty for operator {operator}")]
    ValuesForbidden {
        /// The operator.
        operator: String,
    },
}

/// Converts a selector; an absent or empty one matches everything.
///
/// # Errors
/// Everything that the API server would refuse.
pub fn convert(
    field: &str,
    selector: Option<LabelSelector>,
) -> Result<Selector, Vec<At<SelectorError>>> {
    let LabelSelector { match_expressions, match_labels } = selector.unwrap_or_default();
    let mut problems = Problems::default();
    let mut requirements = BTreeSet::new();
    for (key, value) in match_labels.into_iter().flatten() {
        let field = format!("{field}.matchLabels.{key}");
        problems.keep(&field, labels::label_key(&key));
        problems.keep(&field, labels::label_value(&value));
        requirements.insert(Requirement { key, operator: Operator::In([value].into()) });
    }
    for (i, requirement) in match_expressions.into_iter().flatten().enumerate() {
        let field = format!("{field}.matchExpressions[{i}]");
        requirements.extend(convert_requirement(&field, requirement, &mut problems));
    }
    problems.into_result(Selector { requirements: requirements.into() })
}

fn convert_requirement(
    field: &str,
    requirement: LabelSelectorRequirement,
    problems: &mut Problems<SelectorError>,
) -> Option<Requirement> {
    let LabelSelectorRequirement { key, operator, values } = requirement;
    problems.keep(&format!("{field}.key"), labels::label_key(&key));
    let values: BTreeSet<String> = values.into_iter().flatten().collect();
    for value in &values {
        problems.keep(&format!("{field}.values"), labels::label_value(value));
    }
    let wants_values = matches!(operator.as_str(), "In" | "NotIn");
    let values_are_there = !values.is_empty();
    let meaning = match operator.as_str() {
        "In" => Operator::In(values.into()),
        "NotIn" => Operator::NotIn(values.into()),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        _ => {
            problems.add(format!("{field}.operator"), SelectorError::UnknownOperator { operator });
            return None;
        }
    };
    match (wants_values, values_are_there) {
        (true, false) => {
            problems.add(format!("{field}.values"), SelectorError::ValuesMissing { operator });
        }
        (false, true) => {
            problems.add(format!("{field}.values"), SelectorError::ValuesForbidden { operator });
        }
        (true, true) | (false, false) => {}
    }
    Some(Requirement { key, operator: meaning })
}
