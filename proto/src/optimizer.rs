//! How a training moves its weights: the rule, its constants, and the learning rate over the steps.

use serde::{Deserialize, Serialize};

/// The optimiser of a training.
///
/// In JSON it is a map whose only key is the rule's name, except for AdamW, which is written
/// without a name: so it was before there were others, and the ids of those trials must stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub enum Optimizer {
    /// Two moments.
    AdamW(AdamW),
    /// The sign of a moment.
    Lion(Lion),
    /// Momentum.
    Sgd(Sgd),
    /// Orthogonal steps for the matrices of the layers.
    Muon(Muon),
}

impl Optimizer {
    /// Peak learning rate; for Muon that of the matrices.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::AdamW(config) => config.learning_rate,
            Self::Lion(config) => config.learning_rate,
            Self::Sgd(config) => config.learning_rate,
            Self::Muon(config) => config.learning_rate,
        }
    }

    /// Largest global norm of the gradient; `None` does not clip.
    pub fn clip(&self) -> Option<f64> {
        match self {
            Self::AdamW(config) => config.clip,
            Self::Lion(config) => config.clip,
            Self::Sgd(config) => config.clip,
            Self::Muon(config) => config.clip,
        }
    }
}

/// AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamW {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of matrices and embeddings; vectors (norms, biases) are not decayed.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; `None` does not clip.
    pub clip: Option<f64>,
}

/// Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lion {
    /// Peak learning rate; some three to ten times smaller than AdamW's.
    pub learning_rate: f64,
    /// Share of the old moment in the step's direction.
    pub beta1: f64,
    /// Decay of the moment.
    pub beta2: f64,
    /// Decoupled decay of matrices and embeddings; vectors (norms, biases) are not decayed.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; `None` does not clip.
    pub clip: Option<f64>,
}

/// Stochastic gradient descent as in PyTorch's SGD without dampening.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sgd {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of the old velocity in the new one; the gradient enters whole.
    pub momentum: f64,
    /// Whether the step looks ahead by one velocity.
    pub nesterov: bool,
    /// Coupled decay, a part of the gradient, of matrices and embeddings; vectors (norms, biases)
    /// are not decayed.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; `None` does not clip.
    pub clip: Option<f64>,
}

/// Muon (Jordan et al. 2024) as in PyTorch's Muon, for the two-dimensional weights of the layers;
/// embeddings, the output layer and vectors follow `rest`. A weight that holds several matrices,
/// such as queries, keys and values, is orthogonalised as the one matrix that it is stored as.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Muon {
    /// Peak learning rate of the matrices, before `scale`.
    pub learning_rate: f64,
    /// Decay of the mean gradient.
    pub momentum: f64,
    /// Whether the step looks ahead by one gradient.
    pub nesterov: bool,
    /// Decoupled decay of the matrices.
    pub weight_decay: f64,
    /// How the rate depends on a matrix' shape.
    pub scale: MuonScale,
    /// Largest global norm of the gradient; `None` does not clip.
    pub clip: Option<f64>,
    /// What moves everything else. Its `clip` is not used and must be `None`: there is one global
    /// norm, and [`clip`](Self::clip) is its limit.
    pub rest: Rest,
}

/// Factor on Muon's rate for a matrix (outputs, inputs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MuonScale {
    /// `sqrt(max(1, outputs / inputs))` (Jordan et al. 2024).
    Original,
    /// `0.2 sqrt(max(outputs, inputs))`: steps of AdamW's size, so AdamW's rates and decays can be
    /// kept (Liu et al. 2025, arXiv 2502.16982).
    MatchRmsAdamw,
}

/// What moves the weights that Muon does not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// Two moments.
    #[serde(rename = "adamw")]
    AdamW(AdamW),
    /// The sign of a moment.
    Lion(Lion),
}

/// [`Optimizer`] as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lion: Option<Lion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sgd: Option<Sgd>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    muon: Option<Muon>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    learning_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beta1: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beta2: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epsilon: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight_decay: Option<f64>,
    // AdamW that does not clip is written with `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    clip: Option<Option<f64>>,
}

impl From<Optimizer> for Stored {
    fn from(optimizer: Optimizer) -> Self {
        match optimizer {
            Optimizer::AdamW(config) => Self {
                learning_rate: Some(config.learning_rate),
                beta1: Some(config.beta1),
                beta2: Some(config.beta2),
                epsilon: Some(config.epsilon),
                weight_decay: Some(config.weight_decay),
                clip: Some(config.clip),
                ..Self::default()
            },
            Optimizer::Lion(config) => Self { lion: Some(config), ..Self::default() },
            Optimizer::Sgd(config) => Self { sgd: Some(config), ..Self::default() },
            Optimizer::Muon(config) => Self { muon: Some(config), ..Self::default() },
        }
    }
}

impl TryFrom<Stored> for Optimizer {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let Stored { lion, sgd, muon, learning_rate, beta1, beta2, epsilon, weight_decay, clip } =
            stored;
        let constants = [learning_rate, beta1, beta2, epsilon, weight_decay];
        let named = [lion.is_some(), sgd.is_some(), muon.is_some()];
        if named.contains(&true) {
            let alone = named.iter().filter(|is| **is).count() == 1;
            if !alone || clip.is_some() || constants.iter().any(Option::is_some) {
                return Err("an optimiser has one rule: the constants of AdamW, or a map of one \
                            of lion, sgd and muon");
            }
        }
        let named = lion.map(Self::Lion).or(sgd.map(Self::Sgd)).or(muon.map(Self::Muon));
        match (named, constants) {
            (Some(optimizer), _) => Ok(optimizer),
            (None, [Some(learning_rate), Some(beta1), Some(beta2), Some(epsilon), Some(decay)]) => {
                let (weight_decay, clip) = (decay, clip.flatten());
                let config = AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, clip };
                Ok(Self::AdamW(config))
            }
            (None, _) => Err("AdamW needs learning_rate, beta1, beta2, epsilon and weight_decay"),
        }
    }
}

/// Learning rate over the steps: warm-up, plateau, decay. Warm-up and decay are shares of all
/// steps; with `warmup + decay = 1` there is no plateau, and with `decay = 0` no decay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Share of the steps in which the rate rises linearly from zero.
    pub warmup: f64,
    /// Share of the steps, the last ones, in which it falls.
    pub decay: f64,
    /// How it falls.
    #[serde(default, skip_serializing_if = "DecayShape::is_default")]
    pub shape: DecayShape,
    /// Share of the peak that it falls to, in [0, 1].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub decay_to: f64,
}

impl Schedule {
    /// Linear warm-up, plateau, linear decay to zero.
    pub fn linear(warmup: f64, decay: f64) -> Self {
        Self { warmup, decay, shape: DecayShape::Linear, decay_to: 0.0 }
    }
}

/// How the rate falls; x goes from 1 at the decay's begin to 0 after the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayShape {
    /// `x`.
    #[default]
    Linear,
    /// `(1 - cos(pi x)) / 2` (Loshchilov and Hutter, arXiv 1608.03983).
    Cosine,
    /// `1 - sqrt(1 - x)` (Hägele et al. 2024, arXiv 2405.18392).
    OneMinusSqrt,
}

impl DecayShape {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADAMW: &str = r#"{"learning_rate":0.01,"beta1":0.9,"beta2":0.95,"epsilon":1e-8,"weight_decay":0.1,"clip":null}"#;

    fn adamw() -> AdamW {
        AdamW {
            learning_rate: 0.01,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip: None,
        }
    }

    // Goal: AdamW and the first schedule are written as before there were others, because the text
    // is hashed into a trial's id.
    #[test]
    fn what_there_was_first_is_written_as_it_was() {
        let text = serde_json::to_string(&Optimizer::AdamW(adamw())).unwrap();
        assert_eq!(text, ADAMW);
        let clipped = Optimizer::AdamW(AdamW { clip: Some(1.0), ..adamw() });
        let text = serde_json::to_string(&clipped).unwrap();
        assert_eq!(text, ADAMW.replace("null", "1.0"));
        let text = serde_json::to_string(&Schedule::linear(0.1, 0.2)).unwrap();
        assert_eq!(text, r#"{"warmup":0.1,"decay":0.2}"#);
    }

    #[test]
    fn every_optimiser_survives_json() {
        let lion =
            Lion { learning_rate: 1e-3, beta1: 0.9, beta2: 0.99, weight_decay: 0.0, clip: None };
        let muon = |rest| Muon {
            learning_rate: 0.02,
            momentum: 0.95,
            nesterov: true,
            weight_decay: 0.1,
            scale: MuonScale::MatchRmsAdamw,
            clip: Some(1.0),
            rest,
        };
        let sgd = Sgd {
            learning_rate: 0.1,
            momentum: 0.9,
            nesterov: false,
            weight_decay: 0.0,
            clip: None,
        };
        for optimizer in [
            Optimizer::AdamW(adamw()),
            Optimizer::Lion(lion.clone()),
            Optimizer::Sgd(sgd),
            Optimizer::Muon(muon(Rest::AdamW(adamw()))),
            Optimizer::Muon(muon(Rest::Lion(lion))),
        ] {
            let text = serde_json::to_string(&optimizer).unwrap();
            assert_eq!(serde_json::from_str::<Optimizer>(&text).unwrap(), optimizer, "{text}");
        }
    }

    #[test]
    fn two_rules_and_half_a_rule_are_refused() {
        let lion = r#""lion":{"learning_rate":1.0,"beta1":0.9,"beta2":0.9,"weight_decay":0.0,"clip":null}"#;
        for (text, expected) in [
            ("{}".to_owned(), "AdamW needs"),
            (format!(r#"{{{lion},"beta1":0.9}}"#), "one rule"),
            (r#"{"learning_rate":0.1}"#.to_owned(), "AdamW needs"),
            (r#"{"adam":{}}"#.to_owned(), "unknown field"),
        ] {
            let error = serde_json::from_str::<Optimizer>(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
