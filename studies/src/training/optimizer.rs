//! The checks of `optimizer` and `training`.

use super::checks::{BATCH_MAX, below_one, between, not_negative, positive, within};
use super::raw::{RawMuon, RawOptimizer, RawRule, RawTraining};
use super::spec::{Momentum, MuonRest, Optimizer, Rule, TrainingSettings};
use crate::recipe::{Path, RecipeError};
use proto::{MuonScale, Schedule};

impl RawOptimizer {
    pub(crate) fn check(self, at: &Path) -> Result<Optimizer, RecipeError> {
        let rule = self.rule(at)?;
        let schedule = self.schedule(at)?;
        let beta1 = below_one(self.beta1.unwrap_or(0.95), &at.key("beta1"))?;
        // 0 switches clipping off, as no gradient has that norm.
        let clip = not_negative(self.clip.unwrap_or(1.0), &at.key("clip"))?;
        Ok(Optimizer {
            rule,
            beta1,
            epsilon: positive(self.epsilon.unwrap_or(1e-15), &at.key("epsilon"))?,
            weight_decay: not_negative(self.weight_decay.unwrap_or(0.1), &at.key("weight_decay"))?,
            clip: (clip > 0.0).then_some(clip),
            schedule,
        })
    }

    fn schedule(&self, at: &Path) -> Result<Schedule, RecipeError> {
        let schedule = Schedule {
            warmup: self.warmup.unwrap_or(0.1),
            decay: self.decay.unwrap_or(0.2),
            shape: self.decay_shape.unwrap_or_default(),
            decay_to: self.decay_to.unwrap_or(0.0),
        };
        not_negative(schedule.warmup, &at.key("warmup"))?;
        not_negative(schedule.decay, &at.key("decay"))?;
        within(schedule.decay_to, 0.0, 1.0, &at.key("decay_to"))?;
        if schedule.warmup + schedule.decay > 1.0 {
            let message = format!(
                "warmup {} and decay {} are more than all steps",
                schedule.warmup, schedule.decay
            );
            return Err(RecipeError::new(&at.key("decay"), message)
                .hint("both are shares of the steps; their sum is at most 1"));
        }
        Ok(schedule)
    }

    fn rule(&self, at: &Path) -> Result<Rule, RecipeError> {
        let kind = self.kind.unwrap_or(RawRule::AdamW);
        let has_velocity = matches!(kind, RawRule::Sgd | RawRule::Muon);
        let lion_only = self.muon.as_ref().and_then(|muon| muon.rest) == Some(MuonRest::Lion);
        let unused = [
            ("momentum", self.momentum.is_some() && !has_velocity, "sgd and muon"),
            ("nesterov", self.nesterov.is_some() && !has_velocity, "sgd and muon"),
            ("muon", self.muon.is_some() && kind != RawRule::Muon, "muon"),
            ("beta1", self.beta1.is_some() && kind == RawRule::Sgd, "adamw, lion and muon's rest"),
            (
                "epsilon",
                self.epsilon.is_some()
                    && (matches!(kind, RawRule::Sgd | RawRule::Lion) || lion_only),
                "adamw",
            ),
        ];
        if let Some((key, _, kinds)) = unused.into_iter().find(|(_, unused, _)| *unused) {
            let message = format!("is a constant of {kinds}");
            return Err(RecipeError::new(&at.key(key), message)
                .hint("leave it out, or choose another optimizer.kind"));
        }
        let momentum = Momentum {
            momentum: below_one(self.momentum.unwrap_or(0.95), &at.key("momentum"))?,
            nesterov: self.nesterov.unwrap_or(true),
        };
        Ok(match kind {
            RawRule::AdamW => Rule::AdamW,
            RawRule::Lion => Rule::Lion,
            RawRule::Sgd => Rule::Sgd(momentum),
            RawRule::Muon => {
                let RawMuon { scale, rate, rest } = self.muon.as_ref().unwrap_or(&RawMuon::EMPTY);
                Rule::Muon {
                    momentum,
                    scale: scale.unwrap_or(MuonScale::MatchRmsAdamw),
                    rate: positive(rate.unwrap_or(1.0), &at.key("muon").key("rate"))?,
                    rest: rest.unwrap_or(MuonRest::AdamW),
                }
            }
        })
    }
}

impl RawMuon {
    const EMPTY: Self = Self { scale: None, rate: None, rest: None };
}

impl RawTraining {
    pub(crate) fn check(self, at: &Path) -> Result<TrainingSettings, RecipeError> {
        let parts = self.accumulation.unwrap_or(1);
        let ema = self.ema.filter(|decay| *decay != 0.0);
        if let Some(decay) = ema {
            between(decay, 0.0, 1.0, &at.key("ema"))?;
        }
        let accumulation = within(parts, 1, BATCH_MAX, &at.key("accumulation"))?;
        Ok(TrainingSettings { accumulation, ema, precision: self.precision.unwrap_or_default() })
    }
}
