//! Which experiment's turn it is, and whether its recipe's limits let it go on.

use super::super::state::{Experiment, Lease, Trial, Usage};
use proto::ExperimentId;
use std::collections::BTreeMap;
use studies::recipe::Policy;

/// An experiment in a round.
pub(super) struct Contender<'a> {
    pub(super) id: &'a ExperimentId,
    pub(super) experiment: &'a Experiment,
    /// What it uses with what the round has given it.
    pub(super) used: Usage,
    pub(super) leased: u32,
    held: u64,
}

impl<'a> Contender<'a> {
    pub(super) fn new(id: &'a ExperimentId, experiment: &'a Experiment) -> Self {
        let (used, leased, held) = (experiment.used, experiment.leased, experiment.held);
        Self { id, experiment, used, leased, held }
    }

    /// The smallest goes next: priority, then what its user holds, then what it holds for its
    /// weight, then the order of submission.
    pub(super) fn key(&self, users: &Users<'_>) -> (i64, u64, u64, u64) {
        let user = users.0.get(&*self.experiment.user).copied().unwrap_or(0);
        let share = self.held as f64 / self.experiment.policy.weight.max(f64::MIN_POSITIVE);
        // Casting saturates, so a tiny weight only means the end of the line.
        let priority = -i64::from(self.experiment.policy.priority);
        (priority, user, share as u64, self.experiment.order)
    }

    /// Counts a lease that the round granted.
    pub(super) fn grant(&mut self, users: &mut Users<'a>, trial: &Trial, units: u64) {
        self.leased += 1;
        self.held += units;
        *users.0.entry(&self.experiment.user).or_default() += units;
        if trial.attempt.0 == 0 {
            self.used.trials += 1;
            self.used.flops += trial.spec.flops();
        }
    }
}

/// What each user's experiments hold.
pub(super) struct Users<'a>(BTreeMap<&'a str, u64>);

impl<'a> Users<'a> {
    pub(super) fn new(experiments: impl Iterator<Item = &'a Experiment>) -> Self {
        let mut users: BTreeMap<&str, u64> = BTreeMap::new();
        for experiment in experiments.filter(|experiment| experiment.held > 0) {
            *users.entry(&experiment.user).or_default() += experiment.held;
        }
        Self(users)
    }
}

/// The limit of the recipe that keeps an experiment from starting `trial`, in words.
pub(in super::super) fn limit_reached(
    policy: &Policy,
    used: &Usage,
    leased: u32,
    trial: &Trial,
) -> Option<String> {
    if let Some(most) = policy.at_once.filter(|most| leased >= *most) {
        return Some(format!("{leased} of its trials run, and trials_at_once is {most}"));
    }
    let is_new = trial.attempt.0 == 0;
    if let Some(most) = policy.trials.filter(|most| is_new && used.trials >= *most) {
        return Some(format!(
            "{} trials were started, and the limit trials is {most}",
            used.trials
        ));
    }
    let hours = used.gpu_ms as f64 / 3.6e6;
    if let Some(most) = policy.gpu_hours.filter(|most| wants_gpu(trial) && hours >= *most) {
        return Some(format!("{hours:.2} GPU hours were used, and the limit gpu_hours is {most}"));
    }
    let flops = used.flops + trial.spec.flops();
    if let Some(most) = policy.flops.filter(|most| is_new && flops > *most) {
        return Some(format!(
            "with this trial {flops:.3e} FLOPs were started, and the limit flops is {most:.3e}"
        ));
    }
    None
}

fn wants_gpu(trial: &Trial) -> bool {
    trial.spec.choices().all(|(_, wants)| wants.gpus > 0 || wants.gpu_share_milli > 0)
}

/// The experiment that pays for a lease, as recorded.
pub(super) fn priority_of(
    experiments: &BTreeMap<ExperimentId, Experiment>,
    lease: &Lease,
) -> Option<i32> {
    lease.payer.as_ref().and_then(|id| experiments.get(id)).map(|known| known.policy.priority)
}
