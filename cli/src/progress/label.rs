//! How a line names a trial: by what differs between the trials of its experiment.

use crate::number;
use proto::{Runner, TrialSpec};
use std::collections::BTreeSet;

/// Longest description of a trial's parameters, so that a line stays a line.
const LABEL_CHARS_MAX: usize = 48;

/// What a line may say about a trial; short, as a large sweep has many.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The size of a training's model and data.
    size: Option<String>,
    /// One `name=value` a line.
    parameters: String,
    seed: u64,
}

impl Facts {
    /// Those of a trial.
    pub(crate) fn of(spec: &TrialSpec) -> Self {
        let size = match &spec.runner {
            Runner::Train(train) => {
                let [n, d] =
                    [train.model.parameters(), train.tokens()].map(|x| number::count(x as f64));
                let (width, layers) = (train.model.width, train.model.layers);
                Some(format!("width={width} layers={layers} N={n} D={d}"))
            }
            Runner::Grpo(_) | Runner::Command(_) | Runner::Noop => None,
        };
        let line = |(name, value): (&String, _)| {
            format!("{name}={}", number::parameter(value)).replace('\n', " ")
        };
        let lines: Vec<String> = spec.parameters.iter().map(line).collect();
        Self { size, parameters: lines.join("\n"), seed: spec.seed }
    }
}

/// What differs between the trials that were seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Differences {
    first: Option<Facts>,
    sizes: bool,
    seeds: bool,
    /// Names of parameters.
    parameters: BTreeSet<String>,
}

impl Differences {
    /// Takes in a trial.
    pub(crate) fn see(&mut self, facts: &Facts) {
        let Some(first) = &self.first else {
            self.first = Some(facts.clone());
            return;
        };
        self.sizes |= first.size != facts.size;
        self.seeds |= first.seed != facts.seed;
        if first.parameters != facts.parameters {
            let [ours, theirs]: [BTreeSet<&str>; 2] =
                [&first.parameters, &facts.parameters].map(|lines| lines.lines().collect());
            let names = ours.symmetric_difference(&theirs).map(|line| name(line).to_owned());
            self.parameters.extend(names);
        }
    }

    /// The trial in a few words. A training is known by its size where sizes differ; everything
    /// else by what its study varies.
    pub(crate) fn label(&self, facts: &Facts) -> String {
        let by_size = facts.size.as_ref().filter(|_| self.sizes || self.parameters.is_empty());
        let text = by_size.cloned().unwrap_or_else(|| {
            let differs =
                |line: &&str| self.parameters.is_empty() || self.parameters.contains(name(line));
            let lines: Vec<&str> = facts.parameters.lines().filter(differs).collect();
            crate::table::shortened(&lines.join(" "), LABEL_CHARS_MAX)
        });
        // Behind the cut: it is what tells two trials with the same parameters apart.
        match (self.seeds, text.is_empty()) {
            (false, _) => text,
            (true, true) => format!("seed={}", facts.seed),
            (true, false) => format!("{text} seed={}", facts.seed),
        }
    }
}

fn name(line: &str) -> &str {
    line.split_once('=').map_or(line, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::tests::{command, training};
    use proto::Value;

    fn with(mut spec: TrialSpec, parameters: &[(&str, f64)], seed: u64) -> TrialSpec {
        let pairs = parameters.iter().map(|(name, x)| ((*name).to_owned(), Value::Number(*x)));
        spec.parameters = pairs.collect();
        spec.seed = seed;
        spec
    }

    /// The labels of trials of one experiment.
    fn labels(specs: &[TrialSpec]) -> Vec<String> {
        let mut differences = Differences::default();
        let facts: Vec<Facts> = specs.iter().map(Facts::of).collect();
        facts.iter().for_each(|facts| differences.see(facts));
        facts.iter().map(|facts| differences.label(facts)).collect()
    }

    #[test]
    fn a_label_says_what_differs() {
        let program = |parameters: &[(&str, f64)], seed| with(command(0), parameters, seed);
        // One trial: all that is known. Then what differs, and the seed only where it does.
        assert_eq!(labels(&[program(&[("x", 1.0), ("y", 2.0)], 7)]), ["x=1.000 y=2.000"]);
        assert_eq!(
            labels(&[program(&[("x", 1.0), ("y", 2.0)], 7), program(&[("x", 1.0), ("y", 3.0)], 7)]),
            ["y=2.000", "y=3.000"]
        );
        assert_eq!(
            labels(&[program(&[("x", 1.0)], 0), program(&[("x", 1.0)], 1)]),
            ["x=1.000 seed=0", "x=1.000 seed=1"]
        );
        assert_eq!(labels(&[program(&[], 0), program(&[], 1)]), ["seed=0", "seed=1"]);
        // Trainings of one size are told apart by the rate, those of several by the size.
        let rate = |rate, seed| with(training(16), &[("learning_rate", rate)], seed);
        let found = labels(&[rate(0.01, 0), rate(0.02, 1)]);
        assert_eq!(found, ["learning_rate=0.01000 seed=0", "learning_rate=0.02000 seed=1"]);
        let found = labels(&[rate(0.01, 0), rate(0.01, 1)]);
        assert!(
            found[0].starts_with("width=32 layers=2 N=") && found[0].ends_with(" seed=0"),
            "{found:?}"
        );
        let other = with(training(17), &[("learning_rate", 0.02)], 0);
        let found = labels(&[rate(0.01, 0), other]);
        assert!(found[1].starts_with("width=32 layers=2 N=") && found[0] != found[1], "{found:?}");
    }

    #[test]
    fn a_long_label_is_cut_and_keeps_its_seed() {
        let name = "n".repeat(100);
        let found = labels(&[
            with(command(0), &[(name.as_str(), 1.0)], 0),
            with(command(0), &[(name.as_str(), 1.0)], 1),
        ]);
        assert_ne!(found[0], found[1]);
        assert!(found[1].contains('…') && found[1].chars().count() < 60, "{found:?}");
    }
}
