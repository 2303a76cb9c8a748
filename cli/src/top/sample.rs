//! What the coordinator says, and what is remembered between two answers.

use super::frame::{AgentRow, ExperimentRow, TrialRow, View};
use crate::client::{Client, parse_experiment};
use crate::error::CliError;
use crate::live::{self, Newest};
use proto::wire::{AgentView, ExperimentSummary, MetricPoint};
use proto::{ExperimentState, TrialId};
use std::collections::{BTreeMap, BTreeSet};
use studies::recipe::Recipe;

/// Experiments whose recipe is read for its priority; more are not on one screen.
const PRIORITIES_MAX: usize = 64;
/// Samples after which priorities are read again: submitting a recipe again may change them.
const PRIORITIES_EVERY: u64 = 30;

/// One answer of the coordinator.
#[derive(Debug)]
pub(super) struct Sample {
    agents: Vec<AgentView>,
    experiments: Vec<ExperimentSummary>,
    priorities: BTreeMap<String, i32>,
    /// Trials whose stored series was read, with what was found.
    read: BTreeMap<TrialId, Option<Newest>>,
}

/// What a sample need not ask again.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    priorities: BTreeSet<String>,
    trials: BTreeSet<TrialId>,
}

impl Sample {
    /// Asks the coordinator.
    ///
    /// # Errors
    /// It refuses, or went away.
    pub(super) async fn take(mut client: Client, known: Wanted) -> Result<Self, CliError> {
        let agents = client.agents().await?;
        let experiments = client.experiments().await?;
        let mut priorities = BTreeMap::new();
        for summary in newest_first(&experiments).into_iter().take(PRIORITIES_MAX) {
            if is_running(summary) && !known.priorities.contains(&summary.experiment) {
                let id = parse_experiment(summary.experiment.clone())?;
                let recipe = client.head(&id).await?.recipe;
                // A recipe of another version of Brine has no priority that is known here.
                if let Ok(recipe) = Recipe::parse(&recipe) {
                    priorities.insert(summary.experiment.clone(), recipe.policy.priority);
                }
            }
        }
        let held = agents.iter().flat_map(|agent| &agent.running);
        let held: BTreeSet<TrialId> = held.filter_map(|h| TrialId::new(&h.trial).ok()).collect();
        let unknown: Vec<TrialId> =
            held.difference(&known.trials).take(live::TRIALS_MAX).cloned().collect();
        let mut found = live::newest(&mut client, &unknown).await?;
        let read = unknown.into_iter().map(|id| {
            let newest = found.remove(&id);
            (id, newest)
        });
        Ok(Self { agents, experiments, priorities, read: read.collect() })
    }
}

/// Everything that was learned so far. Bounded by what runs now.
#[derive(Debug, Default)]
pub(super) struct Known {
    agents: Vec<AgentView>,
    experiments: Vec<ExperimentSummary>,
    priorities: BTreeMap<String, i32>,
    /// Of trials that run: what they said last, if anything.
    newest: BTreeMap<TrialId, Option<Newest>>,
    rates: BTreeMap<String, f64>,
    at_ms: u64,
    samples: u64,
    lost: String,
}

impl Known {
    /// What the next sample need not ask.
    pub(super) fn wanted(&self) -> Wanted {
        let fresh = !self.samples.is_multiple_of(PRIORITIES_EVERY);
        let priorities = self.priorities.keys().filter(|_| fresh).cloned().collect();
        Wanted { priorities, trials: self.newest.keys().cloned().collect() }
    }

    /// Takes in an answer that came at `at_ms`.
    pub(super) fn add(&mut self, sample: Sample, at_ms: u64) {
        let elapsed_ms = at_ms.saturating_sub(self.at_ms);
        let before: BTreeMap<&String, u32> =
            self.experiments.iter().map(|known| (&known.experiment, known.ended)).collect();
        let rates = sample.experiments.iter().filter_map(|now| {
            let gained = now.ended.saturating_sub(*before.get(&now.experiment)?);
            let rate = f64::from(gained) * 1e3 / elapsed_ms as f64;
            rate.is_finite().then(|| (now.experiment.clone(), rate))
        });
        self.rates = rates.collect();
        self.at_ms = at_ms;
        self.samples += 1;
        self.lost.clear();
        self.priorities.extend(sample.priorities);
        let listed: BTreeSet<&String> =
            sample.experiments.iter().map(|known| &known.experiment).collect();
        self.priorities.retain(|experiment, _| listed.contains(experiment));
        for (trial, newest) in sample.read {
            // Live points that came in the meantime are newer than the stored series.
            let known = self.newest.entry(trial).or_default();
            if known.is_none() {
                *known = newest;
            }
        }
        let held: BTreeSet<&str> = sample
            .agents
            .iter()
            .flat_map(|agent| &agent.running)
            .map(|held| held.trial.as_str())
            .collect();
        self.newest.retain(|trial, _| held.contains(trial.as_str()));
        self.agents = sample.agents;
        self.experiments = sample.experiments;
    }

    /// Takes in live points; those of trials that are not known to run wait for their next ones.
    pub(super) fn add_points(&mut self, points: &[MetricPoint]) {
        for point in points {
            let Ok(trial) = TrialId::new(&point.trial) else { continue };
            if let Some(newest) = self.newest.get_mut(&trial) {
                newest.get_or_insert_default().add(point);
            }
        }
    }

    /// The coordinator did not answer.
    pub(super) fn lost(&mut self, error: &CliError) {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).clone_into(&mut self.lost);
    }

    /// All of it in the order of a frame: agents by name, running experiments before others and the
    /// newest first, trials by agent.
    pub(super) fn view(&self, coordinator: &str) -> View {
        let mut trials: Vec<TrialRow> =
            self.agents.iter().flat_map(|agent| self.trial_rows(agent)).collect();
        trials.sort_by(|a, b| (&a.agent, &a.trial).cmp(&(&b.agent, &b.trial)));
        View {
            coordinator: coordinator.to_owned(),
            lost: self.lost.clone(),
            agents: self.agents.iter().map(agent_row).collect(),
            experiments: newest_first(&self.experiments)
                .into_iter()
                .map(|summary| self.experiment_row(summary))
                .collect(),
            trials,
        }
    }

    fn experiment_row(&self, summary: &ExperimentSummary) -> ExperimentRow {
        ExperimentRow {
            experiment: summary.experiment.clone(),
            state: summary.state.clone(),
            priority: self.priorities.get(&summary.experiment).copied(),
            trials: summary.trials,
            ended: summary.ended,
            running: summary.running,
            ended_per_s: self.rates.get(&summary.experiment).copied(),
        }
    }

    fn trial_rows<'a>(&'a self, agent: &'a AgentView) -> impl Iterator<Item = TrialRow> + 'a {
        agent.running.iter().map(|held| {
            let known = TrialId::new(&held.trial).ok().and_then(|id| self.newest.get(&id));
            TrialRow {
                trial: held.trial.clone(),
                attempt: held.attempt,
                agent: agent.agent.clone(),
                newest: known.cloned().flatten(),
            }
        })
    }
}

fn is_running(summary: &ExperimentSummary) -> bool {
    summary.state == ExperimentState::Running.word()
}

fn newest_first(experiments: &[ExperimentSummary]) -> Vec<&ExperimentSummary> {
    let mut sorted: Vec<&ExperimentSummary> = experiments.iter().collect();
    let key = |summary: &ExperimentSummary| {
        (!is_running(summary), std::cmp::Reverse(summary.submitted_ms), summary.experiment.clone())
    };
    sorted.sort_by_cached_key(|summary| key(summary));
    sorted
}

fn agent_row(agent: &AgentView) -> AgentRow {
    let gpus = u32::try_from(agent.gpus_offered()).unwrap_or(u32::MAX);
    AgentRow {
        agent: agent.agent.clone(),
        host: agent.host.clone(),
        connected: agent.connected,
        cpus_used: agent.cpus.saturating_sub(agent.cpus_free),
        cpus: agent.cpus,
        gpus_used: gpus.saturating_sub(agent.gpus_free),
        gpus,
        gpu: agent.gpus.first().map_or_else(String::new, |gpu| gpu.name.clone()),
        gpus_withdrawn: agent.withdrawn.len(),
        running: agent.running.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::AttemptRef;

    const TRIAL: &str = "00000000000000aa";

    fn sample(ended: u32, held: &[&str], read: Option<Newest>) -> Sample {
        let running = held
            .iter()
            .map(|trial| AttemptRef { trial: (*trial).to_owned(), attempt: 1, rank: 0 })
            .collect();
        let summary = |experiment: &str, state: &str, submitted_ms| ExperimentSummary {
            experiment: experiment.to_owned(),
            state: state.to_owned(),
            submitted_ms,
            ended,
            ..ExperimentSummary::default()
        };
        Sample {
            agents: vec![AgentView {
                agent: "a".to_owned(),
                cpus: 4,
                cpus_free: 1,
                running,
                ..AgentView::default()
            }],
            experiments: vec![
                summary("done-1", "complete", 9),
                summary("old-1", "running", 1),
                summary("new-1", "running", 2),
            ],
            priorities: BTreeMap::from([("new-1".to_owned(), 7)]),
            read: held.iter().map(|trial| (TrialId::new(*trial).unwrap(), read.clone())).collect(),
        }
    }

    fn point(step: u64, value: f64) -> MetricPoint {
        let (trial, metric) = (TRIAL.to_owned(), "loss".to_owned());
        MetricPoint { trial, attempt: 1, metric, step, value, rank: 0 }
    }

    #[test]
    fn a_withdrawn_gpu_is_neither_offered_nor_used() {
        let agent = AgentView {
            gpus: vec![proto::wire::Gpu::default(); 3],
            gpus_free: 1,
            withdrawn: vec![proto::wire::WithdrawnGpu::default()],
            ..AgentView::default()
        };
        let row = agent_row(&agent);
        assert_eq!((row.gpus_used, row.gpus, row.gpus_withdrawn), (1, 2, 1));
    }

    #[test]
    fn running_experiments_stand_first_and_rates_need_two_samples() {
        let mut known = Known::default();
        known.add(sample(10, &[], None), 0);
        let rows = known.view("c").experiments;
        let names: Vec<&str> = rows.iter().map(|row| row.experiment.as_str()).collect();
        assert_eq!(names, ["new-1", "old-1", "done-1"]);
        assert_eq!((rows[0].priority, rows[1].priority), (Some(7), None));
        assert_eq!(rows[0].ended_per_s, None);
        known.add(sample(25, &[], None), 2_000);
        assert_eq!(known.view("c").experiments[0].ended_per_s, Some(7.5));
        known.add(sample(25, &[], None), 2_000);
        assert_eq!(known.view("c").experiments[0].ended_per_s, None, "no time has passed");
    }

    #[test]
    fn live_points_are_newer_than_what_was_stored() {
        let mut known = Known::default();
        known.add_points(&[point(1, 9.0)]);
        assert_eq!(known.newest.len(), 0, "a trial that is not known to run is not remembered");
        let stored = Newest { attempt: 1, step: 3, shown: Some(("loss".to_owned(), 3.0)) };
        known.add(sample(0, &[TRIAL], Some(stored.clone())), 0);
        assert_eq!(known.view("c").trials[0].newest, Some(stored.clone()));
        known.add_points(&[point(4, 2.0)]);
        known.add(sample(0, &[TRIAL], Some(stored)), 1_000);
        let newest = known.view("c").trials[0].newest.clone().unwrap();
        assert_eq!((newest.step, newest.shown.unwrap().1), (4, 2.0));
        assert!(known.wanted().trials.contains(&TrialId::new(TRIAL).unwrap()));
        known.add(sample(0, &[], None), 2_000);
        assert_eq!(known.newest.len(), 0, "what ended is forgotten");
    }

    #[test]
    fn an_answer_ends_an_alarm() {
        let mut known = Known::default();
        known.lost(&CliError::connection("broke").hint("try again"));
        assert_eq!(known.view("c").lost, "broke");
        known.add(sample(0, &[], None), 0);
        assert_eq!(known.view("c").lost, "");
    }
}
