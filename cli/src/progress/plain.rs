//! Progress as lines, for logs and pipes: one per change, one overall line now and then, and never
//! more than a reader can take.

use super::note::Note;
use super::state::{Overall, Progress};
use crate::number;
use proto::TrialId;
use std::collections::BTreeSet;

/// Time between two overall lines.
pub(crate) const OVERALL_EVERY_MS: u64 = 10_000;
/// Lines about single trials in that time; a thousand short trials are counted, not listed.
/// Failures are always listed up to this number of their own.
const NOTES_MAX: usize = 20;

/// What was said in the current window of [`OVERALL_EVERY_MS`].
#[derive(Debug, Default)]
pub(crate) struct Plain {
    window_start_ms: u64,
    said: usize,
    said_bad: usize,
    silenced: usize,
    /// What was noticed of which trial, but for its numbers: a trial that goes on says it at every
    /// step.
    noticed: BTreeSet<(TrialId, String)>,
    last: Option<Overall>,
}

impl Plain {
    /// The line for a change, unless too many were said already. The end is always said, and how
    /// many changes were not.
    pub(crate) fn note(&mut self, note: &Note) -> Option<String> {
        if matches!(note, Note::ExperimentEnded(_)) {
            let silenced = std::mem::take(&mut self.silenced);
            let more = match silenced {
                0 => String::new(),
                count => format!("; {} not listed", number::plural(count, "more change")),
            };
            return Some(format!("{note}{more}"));
        }
        if let Note::Noticed { trial, notice } = note {
            let words = notice.text.chars().filter(|c| !c.is_ascii_digit()).collect();
            let key = (trial.id.clone(), words);
            if self.noticed.contains(&key) {
                return None;
            }
            // Only what is said is kept, so there are few.
            if self.said_bad < NOTES_MAX {
                self.noticed.insert(key);
            }
        }
        let said = if note.is_bad() { &mut self.said_bad } else { &mut self.said };
        if *said >= NOTES_MAX {
            self.silenced += 1;
            return None;
        }
        *said += 1;
        Some(note.to_string())
    }

    /// The overall line, when it is time for one and something changed.
    pub(crate) fn tick(&mut self, progress: &Progress, now_ms: u64) -> Option<String> {
        if now_ms.saturating_sub(self.window_start_ms) < OVERALL_EVERY_MS {
            return None;
        }
        self.window_start_ms = now_ms;
        (self.said, self.said_bad) = (0, 0);
        self.noticed.clear();
        let overall = progress.overall(now_ms);
        if self.last.as_ref() == Some(&overall) {
            return None;
        }
        let mut line = overall_line(&overall);
        if self.silenced > 0 {
            line.push_str("; ");
            line.push_str(&number::plural(self.silenced, "more change"));
            self.silenced = 0;
        }
        self.last = Some(overall);
        Some(line)
    }
}

/// `12 of 24 trials ended, 1 without a result, 2 running, 48 % done, 3m 05s left`.
pub(crate) fn overall_line(overall: &Overall) -> String {
    let mut parts =
        vec![format!("{} of {} ended", overall.ended, number::plural(overall.planned, "trial"))];
    if overall.failed > 0 {
        parts.push(format!("{} without a result", overall.failed));
    }
    parts.push(format!("{} running", overall.running));
    parts.push(format!("{:.0} % done", overall.fraction * 100.0));
    if let Some(rest_s) = overall.rest_s {
        parts.push(format!("{} left", number::duration_s(rest_s)));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::tests::command;
    use crate::progress::note::TrialName;
    use proto::notice::{Notice, NoticeKind};
    use proto::{Event, ExperimentId, Record, Timestamp};

    fn planned(count: u64) -> Progress {
        let experiment = ExperimentId::new("e").unwrap();
        let mut progress = Progress::new(experiment.clone());
        let trials = (0..count).map(command).collect();
        let event = Event::TrialsPlanned { experiment, reason: String::new(), trials };
        progress.apply(&Record { sequence: 1, at: Timestamp(0), event });
        progress
    }

    #[test]
    fn a_flood_of_changes_is_counted_and_failures_still_come_through() {
        let mut plain = Plain::default();
        let spoken = (0..NOTES_MAX + 5).filter_map(|_| plain.note(&Note::Resumed)).count();
        assert_eq!(spoken, NOTES_MAX);
        let line = plain.tick(&planned(2), OVERALL_EVERY_MS).unwrap();
        assert_eq!(line, "0 of 2 trials ended, 0 running, 0 % done; 5 more changes");
        assert!(plain.note(&Note::Resumed).is_some(), "a new window has begun");
        let spoken = (0..NOTES_MAX + 2).filter_map(|_| plain.note(&Note::Resumed)).count();
        assert_eq!(spoken, NOTES_MAX - 1);
        let end = Note::ExperimentEnded(proto::ExperimentState::Failed);
        let line = plain.note(&end).unwrap();
        assert_eq!(line, "the experiment is failed; 3 more changes not listed");
    }

    #[test]
    fn what_is_noticed_at_every_step_is_said_once_in_a_while() {
        let noticed = |seed: u64, text: &str| {
            let id = command(seed).id();
            let trial = TrialName { number: 1, planned: 2, id, label: String::new() };
            Note::Noticed { trial, notice: Notice::new(NoticeKind::NotANumber, 1, text) }
        };
        let mut plain = Plain::default();
        for (seed, text, is_said) in [
            (1, "loss is NaN at step 12", true),
            (1, "loss is NaN at step 13", false),
            (1, "accuracy is NaN at step 13", true),
            (2, "loss is NaN at step 12", true),
        ] {
            assert_eq!(plain.note(&noticed(seed, text)).is_some(), is_said, "{seed} {text}");
        }
        plain.tick(&planned(1), OVERALL_EVERY_MS);
        assert!(plain.note(&noticed(1, "loss is NaN at step 900")).is_some());
    }

    #[test]
    fn the_overall_line_comes_rarely_and_only_with_news() {
        let mut plain = Plain::default();
        assert_eq!(plain.tick(&planned(1), OVERALL_EVERY_MS - 1), None);
        assert!(plain.tick(&planned(1), OVERALL_EVERY_MS).is_some());
        assert_eq!(plain.tick(&planned(1), 2 * OVERALL_EVERY_MS), None);
        assert!(plain.tick(&planned(2), 3 * OVERALL_EVERY_MS).is_some());
    }
}
