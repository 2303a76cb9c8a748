use super::*;
use crate::estimate::tests::{command, training};
use proto::{Devices, FailureClass, Timestamp};

/// An experiment `e` fed by hand: every step is a record with the next sequence number.
struct Script {
    progress: Progress,
    sequence: u64,
    notes: Vec<String>,
}

impl Script {
    fn new() -> Self {
        let experiment = ExperimentId::new("e").unwrap();
        Self { progress: Progress::new(experiment), sequence: 0, notes: Vec::new() }
    }

    fn event(mut self, event: Event) -> Self {
        self.sequence += 1;
        let record = Record { sequence: self.sequence, at: Timestamp(1_000), event };
        let note = self.progress.apply(&record);
        self.notes.extend(note.map(|note| note.to_string()));
        self
    }

    fn plan(self, trials: &[TrialSpec]) -> Self {
        self.event(Event::TrialsPlanned {
            experiment: ExperimentId::new("e").unwrap(),
            reason: "because".into(),
            trials: trials.to_vec(),
        })
    }

    fn start(self, trial: &TrialSpec, attempt: u32) -> Self {
        let started = Event::AttemptStarted { trial: trial.id(), attempt: Attempt(attempt) };
        self.lease(trial, attempt, false).event(started)
    }

    fn lease(self, trial: &TrialSpec, attempt: u32, ahead: bool) -> Self {
        self.event(Event::LeaseGranted {
            trial: trial.id(),
            attempt: Attempt(attempt),
            agent: AgentId::new("a").unwrap(),
            devices: Devices::default(),
            code_version: "1".to_owned(),
            choice: 0,
            members: Vec::new(),
            payer: None,
            ahead,
        })
    }

    fn end(self, trial: &TrialSpec, outcome: Outcome) -> Self {
        self.event(Event::TrialEnded { trial: trial.id(), attempt: Attempt(1), outcome })
    }

    fn metrics(
        mut self,
        trial: &TrialSpec,
        attempt: u32,
        now_ms: u64,
        points: &[(u64, f64)],
    ) -> Self {
        let point = |(step, value): &(u64, f64)| MetricPoint {
            trial: trial.id(),
            attempt: Attempt(attempt),
            rank: 0,
            metric: "loss".into(),
            step: *step,
            value: *value,
        };
        let points: Vec<_> = points.iter().map(point).collect();
        self.progress.metrics(&points, now_ms);
        self
    }

    #[track_caller]
    fn counts(&self, planned: usize, ended: usize, failed: usize, running: usize) {
        let overall = self.progress.overall(0);
        let found = (overall.planned, overall.ended, overall.failed, overall.running);
        assert_eq!(found, (planned, ended, failed, running));
    }

    fn live(&self, trial: &TrialSpec) -> Option<&Live> {
        self.progress.trials[&trial.id()].live()
    }
}

fn completed() -> Outcome {
    Outcome::Completed {
        metrics: BTreeMap::from([("a".into(), 1.0), ("validation_loss".into(), 2.5)]),
        checkpoint: None,
    }
}

#[test]
fn a_trial_that_is_in_line_does_not_run() {
    let [a, b] = [command(1), command(2)];
    let script = Script::new().plan(&[a.clone(), b.clone()]).start(&a, 1).lease(&b, 1, true);
    script.counts(2, 0, 0, 1);
    script.event(Event::AttemptStarted { trial: b.id(), attempt: Attempt(1) }).counts(2, 0, 0, 2);
}

#[test]
fn trials_are_counted_through_their_lives() {
    let [a, b, c] = [command(1), command(2), command(3)];
    let script = Script::new().plan(&[a.clone(), b.clone(), c.clone()]);
    script.counts(3, 0, 0, 0);
    let script = script.start(&a, 1).start(&b, 1);
    script.counts(3, 0, 0, 2);
    let diverged = Outcome::Diverged { metric: "loss".into(), step: 7 };
    let script = script.end(&a, completed()).end(&b, diverged);
    script.counts(3, 2, 1, 0);
    assert_eq!(script.progress.overall(0).fraction, 2.0 / 3.0);
    assert_eq!(
        script.notes,
        [
            "planned 3 trials: because".to_owned(),
            format!("trial 1/3 {} (seed=1) started on a, attempt 1", a.id()),
            format!("trial 2/3 {} (seed=2) started on a, attempt 1", b.id()),
            format!("trial 1/3 {} (seed=1) completed validation_loss=2.500", a.id()),
            format!("trial 2/3 {} (seed=2) diverged: loss is not a number at step 7", b.id()),
        ]
    );
}

#[test]
fn a_failed_attempt_waits_and_says_how_long() {
    let a = command(1);
    let script =
        Script::new().plan(std::slice::from_ref(&a)).start(&a, 1).event(Event::AttemptFailed {
            trial: a.id(),
            attempt: Attempt(1),
            outcome: Outcome::failed(FailureClass::Infrastructure, "the agent was lost\nmore"),
            retry_at: Timestamp(3_500),
        });
    script.counts(1, 0, 0, 0);
    assert_eq!(
        script.notes.last().unwrap(),
        &format!(
            "trial 1/1 {} attempt 1 failed (infrastructure): the agent was lost; tries again in \
             2.5s",
            a.id()
        )
    );
}

#[test]
fn records_of_others_change_nothing() {
    let [mine, other] = [command(1), command(2)];
    let script = Script::new()
        .event(Event::TrialsPlanned {
            experiment: ExperimentId::new("f").unwrap(),
            reason: String::new(),
            trials: vec![other.clone()],
        })
        .start(&other, 1)
        .end(&other, completed())
        .plan(&[mine])
        .event(Event::ExperimentEnded {
            experiment: ExperimentId::new("f").unwrap(),
            state: ExperimentState::Complete,
        });
    script.counts(1, 0, 0, 0);
    assert_eq!(script.progress.state(), ExperimentState::Running);
}

#[test]
fn planning_a_trial_twice_counts_it_once() {
    let a = command(1);
    let script =
        Script::new().plan(std::slice::from_ref(&a)).start(&a, 1).plan(&[a.clone(), command(2)]);
    script.counts(2, 0, 0, 1);
}

#[test]
fn an_ended_experiment_goes_on_with_its_failed_trials() {
    let a = command(1);
    let ended =
        |state| Event::ExperimentEnded { experiment: ExperimentId::new("e").unwrap(), state };
    let script = Script::new()
        .plan(std::slice::from_ref(&a))
        .end(&a, Outcome::failed(FailureClass::Trial, "x"))
        .event(ended(ExperimentState::Failed));
    assert_eq!(script.progress.state(), ExperimentState::Failed);
    script.counts(1, 1, 1, 0);
    let script = script.event(Event::ExperimentResumed {
        experiment: ExperimentId::new("e").unwrap(),
        retried: vec![a.id()],
    });
    assert_eq!(script.progress.state(), ExperimentState::Running);
    script.counts(1, 0, 0, 0);
}

#[test]
fn metric_points_give_step_loss_rate_and_rest() {
    let a = training(100);
    let script = Script::new()
        .plan(std::slice::from_ref(&a))
        .start(&a, 1)
        .metrics(&a, 1, 1_000, &[(0, 5.5)])
        .metrics(&a, 1, 2_000, &[(9, 4.5), (10, 4.0)]);
    let live = script.live(&a).unwrap();
    assert_eq!((live.step, live.steps_per_s), (10, Some(10.0)));
    assert_eq!(live.shown, Some(("loss".into(), 4.0)));
    let trial = &script.progress.trials[&a.id()];
    assert_eq!(trial.tokens_per_s(), Some(10.0 * 8.0 * 64.0));
    assert_eq!(trial.rest_s(), Some(9.0));
    assert_eq!(script.progress.overall(0).fraction, 0.1);
}

#[test]
fn points_of_an_old_attempt_are_ignored() {
    let a = training(100);
    let script = Script::new()
        .plan(std::slice::from_ref(&a))
        .start(&a, 1)
        .metrics(&a, 1, 0, &[(50, 1.0)])
        .start(&a, 2)
        .metrics(&a, 1, 1_000, &[(60, 0.5)]);
    assert_eq!(script.live(&a).unwrap().step, 0);
    let script = script.metrics(&a, 2, 2_000, &[(40, 1.5)]);
    assert_eq!(script.live(&a).unwrap().step, 40);
}

#[test]
fn the_rest_is_guessed_from_the_live_part_only() {
    let trials: Vec<TrialSpec> = (0..4).map(command).collect();
    let mut script = Script::new().plan(&trials).start(&trials[0], 1).end(&trials[0], completed());
    assert_eq!(script.progress.overall(50_000).rest_s, None);
    script.progress.caught_up(50_000);
    let script = script.start(&trials[1], 1).end(&trials[1], completed());
    assert_eq!(script.progress.overall(51_000).rest_s, None, "too early to tell");
    // One trial in ten seconds, two are left.
    assert_eq!(script.progress.overall(60_000).rest_s, Some(20.0));
}

#[test]
fn a_shared_trial_that_is_over_is_adopted_but_a_running_one_is_not() {
    let [a, b] = [command(1), command(2)];
    let mut script = Script::new().plan(&[a.clone(), b.clone()]).start(&b, 1);
    script.progress.adopt_ended(&a.id(), completed());
    script.progress.adopt_ended(&b.id(), completed());
    script.counts(2, 1, 0, 1);
}
