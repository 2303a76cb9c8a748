//! What a simulated trial does. Everything follows from the trial's id, so that the right result
//! is known before it runs, however often it is interrupted.

use crate::world::Pace;
use proto::{Devices, FailureClass, Outcome, Runner, TrialId, TrialSpec};
use std::collections::BTreeMap;

/// Steps of an estimated trial at most: finer ones would only cost time.
const STEPS_MAX: u64 = 1_000;

/// Argument of a program that ends at once.
pub(crate) const SHORT: &str = "short";

/// Time between two checkpoints of a training whose recipe leaves it to the trainer, which measures
/// what a forecast cannot.
const SAVES_MS: u64 = 60_000;

/// How the program of a trial behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) steps: u64,
    pub(super) step_ms: u64,
    /// Steps between two checkpoints.
    pub(super) checkpoint_every: u64,
    /// Does not end when it is asked to.
    pub(super) is_stubborn: bool,
    ends: Ends,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Well,
    Failed,
    Diverged,
}

/// The state of a program: what a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    pub(super) step: u64,
    pub(super) sum: u64,
}

impl State {
    pub(super) fn next(self, trial: &TrialId) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(trial.as_str().as_bytes());
        hasher.update(&self.sum.to_le_bytes());
        hasher.update(&self.step.to_le_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        Self { step: self.step + 1, sum: u64::from_le_bytes(bytes) }
    }

    /// What the program reports as its loss.
    pub(super) fn loss(self) -> f64 {
        (self.sum >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Program {
    pub(super) fn of(trial: &TrialId, spec: &TrialSpec, devices: &Devices, pace: Pace) -> Self {
        match pace {
            Pace::Drawn => Self::drawn(trial, spec),
            Pace::Estimated { gpu_flops_per_s, cpu_flops_per_s, program_ms, program_saves_ms } => {
                let flops = spec.flops();
                let rate = match devices.gpus.len() {
                    0 => cpu_flops_per_s * devices.cpus.len().max(1) as f64,
                    gpus => gpu_flops_per_s * gpus as f64 * f64::from(devices.gpu_milli()) / 1e3,
                };
                if flops > 0.0 {
                    Self::steady(
                        (flops / rate * 1e3) as u64,
                        spec.checkpoint_every_ms.unwrap_or(SAVES_MS),
                    )
                } else {
                    Self::steady(program_ms, program_saves_ms.unwrap_or(u64::MAX))
                }
            }
        }
    }

    /// A program that takes this long and saves its state at this interval.
    fn steady(ms: u64, checkpoint_every_ms: u64) -> Self {
        let steps = ms.div_ceil(checkpoint_every_ms.max(1)).clamp(1, STEPS_MAX);
        let step_ms = (ms / steps).max(1);
        Self { steps, step_ms, checkpoint_every: 1, is_stubborn: false, ends: Ends::Well }
    }

    fn drawn(trial: &TrialId, spec: &TrialSpec) -> Self {
        let digits = u64::from_str_radix(trial.as_str(), 16).unwrap_or(0);
        let ends = match digits % 23 {
            0 | 1 => Ends::Failed,
            2 => Ends::Diverged,
            _ => Ends::Well,
        };
        let is_short = match &spec.runner {
            Runner::Command(command) => command.arguments.iter().any(|word| word == SHORT),
            Runner::Train(_) | Runner::Grpo(_) | Runner::Noop => false,
        };
        if is_short {
            let step_ms = 1 + digits / 1_000 % 30;
            return Self { steps: 1, step_ms, checkpoint_every: 1, is_stubborn: false, ends };
        }
        Self {
            steps: 1 + digits / 23 % 14,
            step_ms: 20 + digits / 1_000 % 700,
            checkpoint_every: 1 + digits / 7 % 4,
            // Gangs have several processes, and one that never ends is enough trouble.
            is_stubborn: digits % 19 == 3 && spec.placement.members == 1,
            ends,
        }
    }

    /// The result of running to the end.
    pub(super) fn outcome(self, state: State) -> Outcome {
        match self.ends {
            Ends::Well => {
                let metrics = BTreeMap::from([("loss".to_owned(), state.loss())]);
                Outcome::Completed { metrics, checkpoint: None }
            }
            Ends::Failed => Outcome::failed(FailureClass::Trial, "the program ended with 1"),
            Ends::Diverged => Outcome::Diverged { metric: "loss".to_owned(), step: state.step },
        }
    }

    /// The state at the end of an undisturbed run.
    pub(super) fn last_state(self, trial: &TrialId) -> State {
        (0..self.steps).fold(State::default(), |state, _| state.next(trial))
    }
}
