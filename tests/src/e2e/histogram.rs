//! What a histogram of the agents has counted.

use super::agents::series;

/// The sum of the agents' histograms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Observations.
    pub count: u64,
    /// Seconds in all.
    sum: f64,
    /// Upper bounds in seconds, and how many are not above.
    buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Of all agents' metrics, the series that have `label` with its value, or all of them.
    pub fn read(metrics: &[String], name: &str, label: Option<(&str, &str)>) -> Self {
        let mut histogram = Self::default();
        let names = ["count", "sum", "bucket"].map(|part| format!("{name}_{part}"));
        for text in metrics {
            for (part, metric) in names.iter().enumerate() {
                for (labels, value) in series(text, metric) {
                    if label.is_some_and(|(name, value)| labels.get(name) != Some(&value)) {
                        continue;
                    }
                    match part {
                        0 => histogram.count += value as u64,
                        1 => histogram.sum += value,
                        _ => histogram.add(labels.get("le").copied(), value as u64),
                    }
                }
            }
        }
        histogram
    }

    fn add(&mut self, bound: Option<&str>, count: u64) {
        // `+Inf` is one that Rust can read.
        let Some(bound) = bound.and_then(|bound| bound.parse::<f64>().ok()) else { return };
        match self.buckets.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, known)) => *known += count,
            None => self.buckets.push((bound, count)),
        }
    }

    /// What was counted after `before` was read.
    pub fn since(&self, before: &Self) -> Self {
        let of = |bound: f64| before.buckets.iter().find(|(known, _)| *known == bound);
        let less = |(bound, count): &(f64, u64)| {
            (*bound, count.saturating_sub(of(*bound).map_or(0, |(_, count)| *count)))
        };
        Self {
            count: self.count.saturating_sub(before.count),
            sum: self.sum - before.sum,
            buckets: self.buckets.iter().map(less).collect(),
        }
    }

    /// The least bound that all observations are within.
    fn within(&self) -> Option<f64> {
        let mut full = self.buckets.iter().filter(|(_, count)| *count == self.count);
        full.next().map(|(bound, _)| *bound)
    }

    /// Mean and bound.
    pub fn in_words(&self) -> String {
        match (self.count, self.within()) {
            (0, _) | (_, None) => "none".into(),
            (count, Some(bound)) => {
                format!("{:.3} s in mean, all within {bound} s", self.sum / count as f64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent's metrics: how many were within 0.5 s, and how many in all.
    fn metrics(within: u64, all: u64, sum: f64) -> String {
        format!(
            "x_seconds_sum{{result=\"a\"}} {sum}\nx_seconds_count{{result=\"a\"}} {all}\n\
             x_seconds_bucket{{le=\"0.5\",result=\"a\"}} {within}\n\
             x_seconds_bucket{{le=\"2.0\",result=\"a\"}} {all}\n\
             x_seconds_bucket{{le=\"+Inf\",result=\"a\"}} {all}\n\
             x_seconds_sum{{result=\"b\"}} 100.0\nx_seconds_count{{result=\"b\"}} 1\n\
             x_seconds_bucket{{le=\"+Inf\",result=\"b\"}} 1\n"
        )
    }

    #[test]
    fn agents_are_added_up_and_what_was_before_is_not_counted() {
        let label = Some(("result", "a"));
        let before = Histogram::read(&[metrics(1, 3, 5.0)], "x_seconds", label);
        let after = [metrics(2, 5, 6.0), metrics(2, 2, 0.5)];
        let found = Histogram::read(&after, "x_seconds", label).since(&before);
        assert_eq!(found.count, 4);
        assert_eq!(found.in_words(), "0.375 s in mean, all within 2 s");
        let all = Histogram::read(&after, "x_seconds", None);
        assert_eq!((all.count, all.within()), (9, Some(f64::INFINITY)));
    }

    #[test]
    fn nothing_has_no_mean() {
        assert_eq!(Histogram::read(&[String::new()], "x_seconds", None).in_words(), "none");
    }
}
