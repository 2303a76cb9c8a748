//! The checks of `optimizer` and `training`.

use super::checks::{BATCH_MAX, below_one, between, not_negative, positive, within};
use super::raw::{RawMuon, RawOptimizer, RawRule, RawTraining};
use super::spec::{Momentum, MuonRest, Optimizer, Rule, TrainingSettings};
use crate::recipe::{Mistakes, Path, RecipeError, all, every};
use proto::{MuonScale, Schedule};

impl RawOptimizer {
    pub(crate) fn check(self, at: &Path) -> Result<Optimizer, Mistakes> {
        all! {
            let rule = self.rule(at);
            let schedule = self.schedule(at);
            let beta1 = below_one(self.beta1.unwrap_or(0.95), &at.key("beta1"));
            let epsilon = positive(self.epsilon.unwrap_or(1e-15), &at.key("epsilon"));
            let weight_decay =
                not_negative(self.weight_decay.unwrap_or(0.1), &at.key("weight_decay"));
            let clip = not_negative(self.clip.unwrap_or(1.0), &at.key("clip"));
        }
        // 0 switches clipping off, as no gradient has that norm.
        let clip = (clip > 0.0).then_some(clip);
        Ok(Optimizer { rule, beta1, epsilon, weight_decay, clip, schedule })
    }

    fn schedule(&self, at: &Path) -> Result<Schedule, Mistakes> {
        all! {
            let warmup = not_negative(self.warmup.unwrap_or(0.1), &at.key("warmup"));
            let decay = not_negative(self.decay.unwrap_or(0.2), &at.key("decay"));
            let decay_to = within(self.decay_to.unwrap_or(0.0), 0.0, 1.0, &at.key("decay_to"));
        }
        if warmup + decay > 1.0 {
            let message = format!("warmup {warmup} and decay {decay} are more than all steps");
            return Err(RecipeError::new(&at.key("decay"), message)
                .given([at.key("warmup")])
                .hint("both are shares of the steps; their sum is at most 1")
                .into());
        }
        Ok(Schedule { warmup, decay, shape: self.decay_shape.unwrap_or_default(), decay_to })
    }

    /// Refuses every constant that `kind` does not have.
    fn check_unused(&self, kind: RawRule, at: &Path) -> Result<(), Mistakes> {
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
        every(unused.into_iter().filter(|(_, unused, _)| *unused).map(|(key, _, kinds)| {
            let message = format!("is a constant of {kinds}");
            Err::<(), _>(
                RecipeError::new(&at.key(key), message)
                    .given([at.key("kind")])
                    .hint("leave it out, or choose another optimizer.kind"),
            )
        }))?;
        Ok(())
    }

    fn rule(&self, at: &Path) -> Result<Rule, Mistakes> {
        let kind = self.kind.unwrap_or(RawRule::AdamW);
        let RawMuon { scale, rate, rest } = self.muon.as_ref().unwrap_or(&RawMuon::EMPTY);
        all! {
            let _unused = self.check_unused(kind, at);
            let momentum = below_one(self.momentum.unwrap_or(0.95), &at.key("momentum"));
            let rate = positive(rate.unwrap_or(1.0), &at.key("muon").key("rate"));
        }
        let momentum = Momentum { momentum, nesterov: self.nesterov.unwrap_or(true) };
        Ok(match kind {
            RawRule::AdamW => Rule::AdamW,
            RawRule::Lion => Rule::Lion,
            RawRule::Sgd => Rule::Sgd(momentum),
            RawRule::Muon => Rule::Muon {
                momentum,
                scale: scale.unwrap_or(MuonScale::MatchRmsAdamw),
                rate,
                rest: rest.unwrap_or(MuonRest::AdamW),
            },
        })
    }
}

impl RawMuon {
    const EMPTY: Self = Self { scale: None, rate: None, rest: None };
}

impl RawTraining {
    pub(crate) fn check(self, at: &Path) -> Result<TrainingSettings, Mistakes> {
        let ema = self.ema.filter(|decay| *decay != 0.0);
        all! {
            let accumulation =
                within(self.accumulation.unwrap_or(1), 1, BATCH_MAX, &at.key("accumulation"));
            let ema = ema.map(|decay| between(decay, 0.0, 1.0, &at.key("ema"))).transpose();
        }
        Ok(TrainingSettings { accumulation, ema, precision: self.precision.unwrap_or_default() })
    }
}
