//! Which policies are trained: all at once.

use super::report;
use super::spec::{Constants, GrpoSpec};
use crate::recipe::TrialSettings;
use crate::report::Report;
use crate::study::{Next, Study, TrialView};
use proto::train::NUMERICS_VERSION;
use proto::{AdamW, Runner, TrialSpec, Value};
use std::collections::BTreeMap;

/// Policies over one set of problems.
#[derive(Debug)]
pub(super) struct GrpoStudy {
    pub(super) spec: GrpoSpec,
    pub(super) settings: TrialSettings,
    pub(super) problems: proto::grpo::Problems,
}

impl GrpoStudy {
    fn trials(&self) -> Vec<TrialSpec> {
        let policy = &self.spec.policy;
        let mut trials = Vec::new();
        for &variant in &policy.variants {
            for &learning_rate in &policy.learning_rates {
                for &kl in &policy.kl_weights {
                    let spec = self.trial(variant, learning_rate, kl);
                    let parameters = BTreeMap::from([
                        ("variant".to_owned(), Value::Text(variant.word().to_owned())),
                        ("learning_rate".to_owned(), Value::Number(learning_rate)),
                        ("kl_weight".to_owned(), Value::Number(kl)),
                    ]);
                    trials.extend(self.spec.seeds.iter().map(|&seed| {
                        let runner = Runner::Grpo(Box::new(spec.clone()));
                        self.settings.trial(runner, parameters.clone(), seed)
                    }));
                }
            }
        }
        trials
    }

    fn trial(&self, variant: proto::grpo::Variant, learning_rate: f64, kl: f64) -> proto::GrpoSpec {
        let spec = &self.spec;
        let Constants { beta1, beta2, epsilon, weight_decay, clip } = spec.optimizer;
        let adamw =
            |learning_rate| AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, clip };
        let (supervised, policy) = (spec.supervised, &spec.policy);
        proto::GrpoSpec {
            numerics: NUMERICS_VERSION,
            model: spec.model.clone(),
            problems: self.problems.clone(),
            held_out: spec.held_out,
            completion_tokens_max: spec.completion_tokens_max,
            supervised: proto::grpo::Supervised {
                steps: supervised.steps,
                batch: supervised.batch,
                optimizer: adamw(supervised.learning_rate),
                warmup_steps: supervised.warmup_steps,
            },
            policy: proto::grpo::Policy {
                steps: policy.steps,
                prompts: policy.prompts,
                rollouts: policy.rollouts,
                temperature: policy.temperature,
                updates: policy.updates,
                variant,
                clip: policy.clip,
                kl,
                optimizer: adamw(learning_rate),
                warmup_steps: policy.warmup_steps,
            },
            evaluation: spec.evaluation,
        }
    }
}

impl Study for GrpoStudy {
    fn next(&self, trials: &[TrialView<'_>]) -> Next {
        Next::all_at_once(trials, || {
            let trials = self.trials();
            let seeds = self.spec.seeds.len();
            let policies = trials.len() / seeds;
            let reason = format!("policies to compare: {policies}, seeds of each: {seeds}");
            (trials, reason)
        })
    }

    fn wants_each_outcome(&self) -> bool {
        false
    }

    fn report(&self, trials: &[TrialView<'_>]) -> Report {
        report::build(&self.spec, trials)
    }
}
