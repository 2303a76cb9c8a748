//! What is submitted: small sweeps, each of one kind of program, and what has to become of them.

use std::fmt::Write as _;

/// The program of all trials, beside the recipes.
pub(crate) const PROGRAM_NAME: &str = "trial.sh";
/// Its text.
pub(crate) const PROGRAM: &str = include_str!("trial.sh");
/// Repetitions of a failed attempt, the most that a recipe may ask for: chaos takes many, and a
/// trial that gives up is a contradiction.
const RETRIES: u32 = 100;

/// What the trials of a sweep do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Counts steps and keeps the count in its checkpoint folder.
    Count,
    /// One step, and a line in the ledger at the very end.
    Short,
    /// Two members that start together.
    Gang,
    /// Completes inside the agent, without a process.
    Noop,
    /// Ends with exit code 3.
    Fail,
}

impl Kind {
    /// Each as often as it is drawn.
    pub(crate) const WEIGHTED: [Self; 8] = [
        Self::Count,
        Self::Count,
        Self::Count,
        Self::Short,
        Self::Short,
        Self::Gang,
        Self::Noop,
        Self::Fail,
    ];

    /// Fewest and most trials of a sweep. With those of the busy sweep of the same cycle they are
    /// about what two agents with two CPU slots each do in it, so the queue stays short.
    pub(crate) fn trials(self) -> (u64, u64) {
        match self {
            Self::Count | Self::Short => (1, 2),
            Self::Gang => (1, 2),
            Self::Noop => (5, 20),
            Self::Fail => (1, 1),
        }
    }

    /// Its word in recipes and for the program.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Short => "short",
            Self::Gang => "gang",
            Self::Noop => "noop",
            Self::Fail => "fail",
        }
    }

    /// Processes of one attempt.
    pub(crate) fn members(self) -> u32 {
        match self {
            Self::Noop => 0,
            Self::Count | Self::Short | Self::Fail => 1,
            Self::Gang => 2,
        }
    }

    /// Steps of 0.2 s that the program counts.
    pub(crate) fn steps(self) -> u64 {
        match self {
            Self::Count => 10,
            Self::Gang => 2,
            Self::Short | Self::Fail => 1,
            Self::Noop => 0,
        }
    }
}

/// One sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// Unique; part of the recipe's name and of its trials' identity, so that no two sweeps share
    /// a trial.
    pub(crate) number: u64,
    /// What its trials do.
    pub(crate) kind: Kind,
    /// How many there are.
    pub(crate) trials: u64,
}

impl Sweep {
    /// File name of the recipe.
    pub(crate) fn file_name(&self) -> String {
        format!("{}-{}.yaml", self.kind.word(), self.number)
    }

    /// Text of the recipe.
    pub(crate) fn recipe(&self) -> String {
        let Self { number, kind, trials } = self;
        let word = kind.word();
        let mut text = format!(
            "apiVersion: brine.dev/v1\n\
             kind: Experiment\n\
             metadata: {{name: chaos-{word}-{number}}}\n\
             spec:\n\
             \x20 study:\n\
             \x20   sweep:\n"
        );
        let steps = kind.steps();
        let runner = match kind {
            Kind::Noop => "noop: {}".to_owned(),
            Kind::Count | Kind::Short | Kind::Gang | Kind::Fail => format!(
                "command: {{arguments: [sh, {PROGRAM_NAME}, {word}, \"{steps}\"], \
                 files: [{PROGRAM_NAME}]}}"
            ),
        };
        let metric = match kind {
            Kind::Count => "metric: {name: steps, goal: maximize}\n",
            Kind::Short | Kind::Gang | Kind::Fail => "metric: null\n",
            Kind::Noop => "",
        };
        let lines = [
            format!("{runner}\n"),
            format!("parameters: {{place: {{range: [0, {trials}]}}}}\n"),
            "search: grid\n".to_owned(),
            format!("seeds: [{number}]\n"),
            metric.to_owned(),
        ];
        for line in lines.iter().filter(|line| !line.is_empty()) {
            // Writing into a text cannot fail.
            let _ = write!(text, "      {line}");
        }
        if kind.members() > 1 {
            let _ = writeln!(text, "  members: {}", kind.members());
        }
        let _ = writeln!(text, "  retries: {{infrastructure: {RETRIES}}}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_differ_by_kind_where_they_must() {
        let recipe = |kind| Sweep { number: 12, kind, trials: 3 }.recipe();
        for (kind, expected) in [
            (Kind::Count, "arguments: [sh, trial.sh, count, \"10\"]"),
            (Kind::Count, "metric: {name: steps, goal: maximize}"),
            (Kind::Short, "      metric: null\n"),
            (Kind::Gang, "\n  members: 2\n"),
            (Kind::Noop, "      noop: {}\n"),
            (Kind::Fail, "metadata: {name: chaos-fail-12}"),
        ] {
            let text = recipe(kind);
            assert!(text.contains(expected), "{text}");
            assert!(text.contains("seeds: [12]") && text.contains("range: [0, 3]"), "{text}");
        }
        assert!(!recipe(Kind::Noop).contains("metric"));
    }
}
