//! The set checker: what was acknowledged and recorded against what the programs did. Pure.
//!
//! It is asked when everything has ended, so that nothing may be missing any more. It says every
//! contradiction in words, with the trial's id.

use std::collections::{BTreeMap, BTreeSet};

use super::records::{Attempt, Deed, Fact, Line, Outcome, Record};
use super::sweeps::{Kind, Sweep};

/// Classes of failures that say nothing about the program: it may have done all its work.
const NOT_THE_PROGRAM: [&str; 2] = ["infrastructure", "cancelled"];

/// An acknowledged experiment with its records.
#[derive(Debug)]
pub(crate) struct Experiment {
    /// What was submitted.
    pub(crate) sweep: Sweep,
    /// All its records, in the order of the journal.
    pub(crate) records: Vec<Record>,
}

/// What the check found beside contradictions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// What cannot be true at once, in words.
    pub(crate) contradictions: Vec<String>,
    /// Trials that ended for good.
    pub(crate) trials: u64,
    /// Attempts that were leased.
    pub(crate) attempts: u64,
    /// Programs that went on from a checkpoint.
    pub(crate) resumes: u64,
}

/// Compares everything with everything. `experiments` are by id.
pub(crate) fn check(experiments: &BTreeMap<String, Experiment>, ledger: &[Line]) -> Findings {
    let mut findings = Findings::default();
    let mut trials: BTreeMap<&str, Trial> = BTreeMap::new();
    for (id, experiment) in experiments {
        check_experiment(id, experiment, &mut trials, &mut findings);
    }
    for line in ledger {
        match trials.get_mut(line.attempt.trial.as_str()) {
            Some(trial) => trial.lines.push(line),
            None => findings.contradict(&line.attempt, "a program ran of a trial of no experiment"),
        }
    }
    for trial in trials.values() {
        trial.check_outcome(&mut findings);
        trial.check_lines(&mut findings);
        trial.check_resumes(&mut findings);
    }
    findings
}

impl Findings {
    fn contradict(&mut self, attempt: &Attempt, what: &str) {
        let Attempt { trial, number } = attempt;
        self.contradictions.push(format!("trial {trial}, attempt {number}: {what}"));
    }
}

/// Everything about one trial.
struct Trial<'a> {
    kind: Kind,
    granted: Vec<u64>,
    failed: BTreeMap<u64, &'a Outcome>,
    ended: Option<(&'a Attempt, &'a Outcome)>,
    lines: Vec<&'a Line>,
}

/// Walks through the records of one experiment in order and notes what they say of its trials.
fn check_experiment<'a>(
    id: &str,
    experiment: &'a Experiment,
    trials: &mut BTreeMap<&'a str, Trial<'a>>,
    findings: &mut Findings,
) {
    let Experiment { sweep, records } = experiment;
    if !records.is_sorted_by(|a, b| a.sequence < b.sequence) {
        findings.contradictions.push(format!("the records of {id} are not in order"));
    }
    let mut over = false;
    let mut ended = BTreeSet::new();
    for record in records {
        match &record.fact {
            Fact::Granted(attempt) => note(attempt, sweep.kind, trials).grant(attempt, findings),
            Fact::Failed(attempt, outcome) => {
                note(attempt, sweep.kind, trials).fail(attempt, outcome, findings);
            }
            Fact::Ended(attempt, outcome) => {
                ended.insert(&attempt.trial);
                note(attempt, sweep.kind, trials).end(attempt, outcome, findings);
            }
            Fact::Lives(attempt) => {
                note(attempt, sweep.kind, trials).expect_newest(attempt, "news", findings);
            }
            Fact::ExperimentEnded => over = true,
            Fact::ExperimentResumed => over = false,
            Fact::Other => {}
        }
    }
    if !over {
        findings.contradictions.push(format!("{id} has no record of its end"));
    }
    if ended.len() as u64 != sweep.trials {
        let (wanted, found) = (sweep.trials, ended.len());
        findings.contradictions.push(format!("{id} wanted {wanted} trials, and {found} ended"));
    }
    findings.trials += ended.len() as u64;
}

fn note<'a, 't>(
    attempt: &'a Attempt,
    kind: Kind,
    trials: &'t mut BTreeMap<&'a str, Trial<'a>>,
) -> &'t mut Trial<'a> {
    let new =
        || Trial { kind, granted: vec![], failed: BTreeMap::new(), ended: None, lines: vec![] };
    trials.entry(&attempt.trial).or_insert_with(new)
}

impl<'a> Trial<'a> {
    fn grant(&mut self, attempt: &Attempt, findings: &mut Findings) {
        findings.attempts += 1;
        let newest = self.granted.last().copied().unwrap_or(0);
        if attempt.number != newest + 1 {
            findings.contradict(attempt, &format!("leased after attempt {newest}"));
        }
        if newest > 0 && !self.failed.contains_key(&newest) {
            findings.contradict(attempt, &format!("leased while attempt {newest} was not over"));
        }
        self.expect_not_ended(attempt, "leased", findings);
        self.granted.push(attempt.number);
    }

    fn fail(&mut self, attempt: &Attempt, outcome: &'a Outcome, findings: &mut Findings) {
        self.expect_newest(attempt, "failed", findings);
        if self.failed.insert(attempt.number, outcome).is_some() {
            findings.contradict(attempt, "failed twice");
        }
    }

    fn end(&mut self, attempt: &'a Attempt, outcome: &'a Outcome, findings: &mut Findings) {
        self.expect_newest(attempt, "ended its trial", findings);
        self.ended = Some((attempt, outcome));
    }

    /// The fence: what changes a trial comes from its newest lease, and from that only while it is
    /// not over.
    fn expect_newest(&self, attempt: &Attempt, what: &str, findings: &mut Findings) {
        self.expect_not_ended(attempt, what, findings);
        if self.granted.last() != Some(&attempt.number) {
            let newest = self.granted.last().copied().unwrap_or(0);
            let words = format!("{what}, but the newest lease is that of attempt {newest}");
            findings.contradict(attempt, &words);
        } else if self.failed.contains_key(&attempt.number) {
            findings.contradict(attempt, &format!("{what} after it had failed"));
        }
    }

    fn expect_not_ended(&self, attempt: &Attempt, what: &str, findings: &mut Findings) {
        if let Some((by, outcome)) = &self.ended {
            let (by, word) = (by.number, &outcome.word);
            let words = format!("{what} after attempt {by} had ended the trial as {word}");
            findings.contradict(attempt, &words);
        }
    }

    /// The outcome is the one that the program gives when nobody disturbs it.
    fn check_outcome(&self, findings: &mut Findings) {
        let Some((attempt, outcome)) = self.ended else {
            return;
        };
        let expected = match self.kind {
            Kind::Count | Kind::Short | Kind::Gang | Kind::Noop => "completed",
            Kind::Fail => "trial",
        };
        if outcome.word != expected {
            let Outcome { word, message, .. } = outcome;
            let kind = self.kind.word();
            let words = format!("a {kind} trial ended as {word}, not as {expected}: {message}");
            findings.contradict(attempt, &words);
        }
        let steps = outcome.steps.unwrap_or(0.0);
        if self.kind == Kind::Count && steps != self.kind.steps() as f64 {
            let words = format!("completed with {steps} steps, not {}", self.kind.steps());
            findings.contradict(attempt, &words);
        }
    }

    /// What programs did against what was recorded of their attempts.
    fn check_lines(&self, findings: &mut Findings) {
        let mut seen = BTreeSet::new();
        let mut newest = 0;
        for line in &self.lines {
            let Line { deed, attempt, rank, steps } = line;
            // Checkpoints of one attempt differ by their step.
            if !seen.insert((attempt.number, rank, deed, steps))
                || (!matches!(deed, Deed::Saved | Deed::Missed)
                    && self.count(*deed, attempt.number, *rank) > 1)
            {
                findings.contradict(attempt, &format!("{deed:?} twice by rank {rank}"));
            }
            if !self.granted.contains(&attempt.number) {
                findings.contradict(attempt, "its program ran without a lease");
            }
            if attempt.number < newest {
                let words = format!("its program still ran when that of attempt {newest} did");
                findings.contradict(attempt, &words);
            }
            newest = newest.max(attempt.number);
            if *deed == Deed::Done && *steps != self.kind.steps() {
                findings.contradict(attempt, &format!("done after {steps} steps"));
            }
            let failed = self.failed.get(&attempt.number);
            if let Some(outcome) = failed.filter(|_| *deed == Deed::Done)
                && !NOT_THE_PROGRAM.contains(&outcome.word.as_str())
            {
                let Outcome { word, message, .. } = outcome;
                let words =
                    format!("its program did all its work, and it failed: {word}: {message}");
                findings.contradict(attempt, &words);
            }
        }
        if let Some((attempt, outcome)) = self.ended
            && outcome.word == "completed"
        {
            for rank in 0..self.kind.members() {
                if self.count(Deed::Done, attempt.number, rank) == 0 {
                    let words = format!("completed, but rank {rank} did not do its work");
                    findings.contradict(attempt, &words);
                }
            }
        }
    }

    fn count(&self, deed: Deed, attempt: u64, rank: u32) -> usize {
        let same = |line: &&&Line| {
            line.deed == deed && line.attempt.number == attempt && line.rank == rank
        };
        self.lines.iter().filter(same).count()
    }

    /// Every program goes on from the newest checkpoint that was saved before it began. It may be
    /// that of the step after the last one that the ledger mentions, when the program was killed
    /// between saving and saying so, or that last one itself, when it was called missed because
    /// the `mv` that saved it was killed.
    fn check_resumes(&self, findings: &mut Findings) {
        // By rank: the newest step that was saved, and the last one that was saved or missed.
        let mut steps: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for line in &self.lines {
            let (saved, tried) = steps.entry(line.rank).or_default();
            match line.deed {
                Deed::Start => {
                    if ![*saved, *tried, *tried + 1].contains(&line.steps) {
                        let words = format!(
                            "began at step {}, although step {saved} was the newest that was saved",
                            line.steps
                        );
                        findings.contradict(&line.attempt, &words);
                    }
                    findings.resumes += u64::from(line.steps > 0);
                    (*saved, *tried) = (line.steps, line.steps);
                }
                Deed::Saved => (*saved, *tried) = (line.steps, line.steps),
                Deed::Missed => *tried = line.steps,
                Deed::Done => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
