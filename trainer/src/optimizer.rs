//! The optimisers, in place on the flat parameters, and clipping by the global norm.
//!
//! ```text
//! clip   g <- g min(1, clip / (|g| + 1e-6))
//! AdamW  m <- b1 m + (1 - b1) g          v <- b2 v + (1 - b2) g^2
//!        p <- p (1 - lr decay)
//!        p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
//! Lion   p <- p (1 - lr decay)           p <- p - lr sign(b1 m + (1 - b1) g)
//!        m <- b2 m + (1 - b2) g
//! SGD    g <- g + decay p                m <- momentum m + g
//!        p <- p - lr m                   Nesterov: p <- p - lr (g + momentum m)
//! Muon   see [`muon`]
//! ```
//! t counts steps from 1. AdamW and SGD are PyTorch's, in its order of operations (SGD without
//! dampening). Lion is algorithm 2 of arXiv 2302.06675. Only matrices and embeddings decay.

mod muon;

use crate::checkpoint::{Bytes, MomentPlace};
use crate::operations::{self, Moved};
use crate::parameters::{Entry, Layout, Parameters};
use proto::{AdamW, Lion, Muon, Rest, Sgd};
use std::ops::Range;
use tch::{Device, Kind, Tensor, no_grad};

/// Keeps the clipping factor finite for a gradient of zeros; PyTorch's constant.
const CLIP_EPSILON: f64 = 1e-6;

/// Values that a rule moves at once on the processor. A rule is a dozen passes over its values, so
/// it goes piece by piece, each of which stays in the cache: 3 times as fast as whole for ten
/// million values, and its intermediate results are small.
const PIECE_VALUES: i64 = 1 << 18;

/// The rules with their moments.
#[derive(Debug)]
pub struct Optimizer {
    clip: Option<f64>,
    /// Most values that are moved at once.
    piece: i64,
    /// What Muon's matrices are made orthogonal in.
    newton_schulz: Kind,
    parts: Vec<Part>,
}

/// Neighbouring tensors that one rule moves.
#[derive(Debug)]
struct Part {
    rule: Rule,
    place: Place,
    /// One per name in [`Rule::moments`], each (length of the place).
    moments: Vec<Tensor>,
}

#[derive(Debug, Clone)]
struct Place {
    /// Numbers of the tensors in the layout.
    entries: Range<usize>,
    start: i64,
    len: i64,
    /// Values, from the first, that decay.
    decayed: i64,
}

#[derive(Debug, Clone)]
enum Rule {
    AdamW(AdamW),
    Lion(Lion),
    Sgd(Sgd),
    Muon(Muon),
}

impl Rule {
    fn moments(&self) -> &'static [&'static str] {
        match self {
            Self::AdamW(_) => &["first_moment.", "second_moment."],
            Self::Lion(_) | Self::Sgd(_) | Self::Muon(_) => &["momentum."],
        }
    }
}

impl Optimizer {
    /// Moments of zeros.
    ///
    /// # Errors
    /// libtorch has no memory for them.
    pub fn new(config: &proto::Optimizer, parameters: &Parameters) -> tch::Result<Self> {
        let layout = parameters.layout();
        let part = |(rule, place): (Rule, Place)| {
            let zeros = || Tensor::f_zeros([place.len], (Kind::Float, parameters.flat().device()));
            let moments = rule.moments().iter().map(|_| zeros()).collect::<tch::Result<_>>()?;
            Ok(Part { rule, place, moments })
        };
        let parts = parts(config, layout).into_iter().map(part).collect::<tch::Result<_>>()?;
        let (piece, newton_schulz) = match parameters.flat().device() {
            Device::Cpu => (PIECE_VALUES, Kind::Float),
            // There the number of launches counts.
            Device::Cuda(_) | Device::Mps | Device::Vulkan => (i64::MAX, Kind::BFloat16),
        };
        Ok(Self { clip: config.clip(), piece, newton_schulz, parts })
    }

    /// Every moment, each (sum of its tensors' lengths), in the order of [`moment_places`].
    pub fn moments(&self) -> impl Iterator<Item = &Tensor> {
        self.parts.iter().flat_map(|part| &part.moments)
    }

    /// Continues from `moments`, bytes of float32 values in the order of [`moment_places`].
    ///
    /// # Errors
    /// libtorch has no memory for them.
    pub(crate) fn set_moments(&mut self, moments: &[Bytes]) -> tch::Result<()> {
        let places = self.parts.iter_mut().flat_map(|part| &mut part.moments);
        for (place, bytes) in places.zip(moments) {
            place.f_copy_(&Tensor::f_from_data_size(bytes, &place.size(), Kind::Float)?)?;
        }
        Ok(())
    }

    /// Update number `t`, from 1, of `parameters` by `gradient` (N), which it uses up, at the share
    /// `rate_share` of each rule's peak learning rate. Returns the gradient's norm before
    /// clipping, a scalar tensor, so that a GPU need not wait for it.
    ///
    /// # Errors
    /// libtorch refuses, for lack of memory.
    pub fn step(
        &mut self,
        parameters: &Parameters,
        gradient: Tensor,
        rate_share: f64,
        t: u64,
    ) -> tch::Result<Tensor> {
        no_grad(|| {
            let norm = gradient.f_norm()?;
            let update = Update {
                gradient: &gradient,
                clip: self.clip.map(|clip| clip_factor(&norm, clip)).transpose()?,
                share: rate_share,
                t,
                newton_schulz: self.newton_schulz,
            };
            for part in &mut self.parts {
                part.step(parameters, &update, self.piece)?;
            }
            Ok(norm)
        })
    }
}

/// Which moments an optimiser keeps of which tensors.
pub fn moment_places(config: &proto::Optimizer, layout: &Layout) -> Vec<MomentPlace> {
    let places = parts(config, layout).into_iter().flat_map(|(rule, place)| {
        let entries = place.entries;
        let named = move |&prefix| MomentPlace { prefix, entries: entries.clone() };
        rule.moments().iter().map(named)
    });
    places.collect()
}

/// Who moves what: whole, or for Muon runs of tensors that are its own and runs that are not.
fn parts(config: &proto::Optimizer, layout: &Layout) -> Vec<(Rule, Place)> {
    let all = layout.entries();
    let whole = |rule| vec![(rule, place(layout, 0..all.len()))];
    let config = match config {
        proto::Optimizer::AdamW(config) => return whole(Rule::AdamW(config.clone())),
        proto::Optimizer::Lion(config) => return whole(Rule::Lion(config.clone())),
        proto::Optimizer::Sgd(config) => return whole(Rule::Sgd(config.clone())),
        proto::Optimizer::Muon(config) => config,
    };
    let rest = match &config.rest {
        Rest::AdamW(config) => Rule::AdamW(config.clone()),
        Rest::Lion(config) => Rule::Lion(config.clone()),
    };
    let mut parts = Vec::new();
    let mut start = 0;
    for run in all.chunk_by(|a, b| muon::moves(a) == muon::moves(b)) {
        let rule = if muon::moves(&run[0]) { Rule::Muon(config.clone()) } else { rest.clone() };
        parts.push((rule, place(layout, start..start + run.len())));
        start += run.len();
    }
    parts
}

fn place(layout: &Layout, entries: Range<usize>) -> Place {
    let part = &layout.entries()[entries.clone()];
    let start = part.first().map_or(0, |entry| entry.start);
    let len: usize = part.iter().map(|entry| entry.len).sum();
    // Matrices come before vectors.
    let decayed = layout.decayed_len().saturating_sub(start).min(len);
    Place { entries, start: start as i64, len: len as i64, decayed: decayed as i64 }
}

/// One update of everything.
struct Update<'a> {
    /// (N), used up.
    gradient: &'a Tensor,
    /// What the gradient is multiplied by, a scalar.
    clip: Option<Tensor>,
    /// Of each rule's peak learning rate.
    share: f64,
    t: u64,
    newton_schulz: Kind,
}

/// `min(1, clip / (norm + 1e-6))`, a scalar tensor.
fn clip_factor(norm: &Tensor, clip: f64) -> tch::Result<Tensor> {
    let factor = norm.f_add_scalar(CLIP_EPSILON)?.f_reciprocal_()?;
    (factor * clip).f_clamp_max(1.0)
}

impl Part {
    /// Moves this part of the parameters, at most `piece` values at once.
    fn step(
        &mut self,
        parameters: &Parameters,
        update: &Update<'_>,
        piece: i64,
    ) -> tch::Result<()> {
        let Place { start, len, decayed, .. } = self.place;
        let piece = match &self.rule {
            // The first needs whole matrices, the second goes in pieces by itself.
            Rule::Muon(_) | Rule::AdamW(_) => len,
            Rule::Lion(_) | Rule::Sgd(_) => piece,
        };
        let mut done = 0;
        while done < len {
            let len = piece.min(len - done);
            let part = |whole: &Tensor, start: i64| whole.f_narrow(0, start, len);
            let moments = self.moments.iter().map(|moment| part(moment, done));
            let piece = Piece {
                values: part(parameters.flat(), start + done)?,
                rounded: parameters.rounded().map(|all| part(all, start + done)).transpose()?,
                gradient: part(update.gradient, start + done)?,
                moments: moments.collect::<tch::Result<_>>()?,
                decayed: (decayed - done).clamp(0, len),
            };
            let entries = &parameters.layout().entries()[self.place.entries.clone()];
            piece.step(&self.rule, entries, update)?;
            done += len;
        }
        Ok(())
    }
}

/// Neighbouring values of one part with all that belongs to them.
struct Piece {
    values: Tensor,
    /// What the model reads instead of the values, where it computes in bfloat16.
    rounded: Option<Tensor>,
    gradient: Tensor,
    moments: Vec<Tensor>,
    /// Values, from the first, that decay.
    decayed: i64,
}

impl Piece {
    /// `entries` are those of the whole part.
    fn step(mut self, rule: &Rule, entries: &[Entry], update: &Update<'_>) -> tch::Result<()> {
        if let Rule::AdamW(config) = rule {
            match self.adamw_at_once(config, update)? {
                Ok(()) => return Ok(()),
                Err(back) => self = back,
            }
        }
        if let Some(clip) = &update.clip {
            let _ = self.gradient.f_mul_(clip)?;
        }
        let Update { share, t, newton_schulz, .. } = *update;
        let Self { values, rounded, gradient, decayed, .. } = self;
        let moved = values.shallow_clone();
        match (rule, self.moments.as_mut_slice()) {
            (Rule::AdamW(config), [first, second]) => {
                adamw(config, [first, second], values, gradient, decayed, share, t)
            }
            (Rule::Lion(config), [moment]) => {
                lion(config, moment, values, &gradient, decayed, share)
            }
            (Rule::Sgd(config), [velocity]) => {
                sgd(config, velocity, values, gradient, decayed, share)
            }
            (Rule::Muon(config), [moment]) => {
                let how = (share, newton_schulz);
                muon::step(config, moment, &values, &gradient, entries, how)
            }
            (Rule::AdamW(_) | Rule::Lion(_) | Rule::Sgd(_) | Rule::Muon(_), _) => {
                unreachable!("a part is made with its rule's moments")
            }
        }?;
        rounded.map_or(Ok(()), |mut rounded| rounded.f_copy_(&moved))
    }

    /// As [`adamw`], in one pass, where that can be done.
    fn adamw_at_once(self, config: &AdamW, update: &Update<'_>) -> tch::Result<Result<(), Self>> {
        let config = kernels::adamw::Config {
            learning_rate: config.learning_rate * update.share,
            beta1: config.beta1,
            beta2: config.beta2,
            epsilon: config.epsilon,
            weight_decay: config.weight_decay,
            gradient_scale: 1.0,
        };
        let Self { values, rounded, gradient, moments, decayed } = self;
        let Ok(moments) = <[Tensor; 2]>::try_from(moments) else {
            unreachable!("a part is made with its rule's moments")
        };
        let clip = update.clip.as_ref();
        let decayed = decayed as usize;
        let moved = Moved { parameters: values, rounded, gradient, moments, clip, decayed };
        Ok(operations::adamw(&config, moved, update.t)?.map_err(|moved| Self {
            values: moved.parameters,
            rounded: moved.rounded,
            gradient: moved.gradient,
            moments: moved.moments.into(),
            decayed: moved.decayed as i64,
        }))
    }
}

fn adamw(
    config: &AdamW,
    [first_moment, second_moment]: [&mut Tensor; 2],
    mut values: Tensor,
    mut gradient: Tensor,
    decayed: i64,
    share: f64,
    t: u64,
) -> tch::Result<()> {
    let AdamW { beta1, beta2, epsilon, weight_decay, .. } = *config;
    let learning_rate = config.learning_rate * share;
    let t = t as f64;
    let _ = first_moment.f_lerp_(&gradient, 1.0 - beta1)?;
    let _ = second_moment.f_lerp_(&gradient.f_square_()?, 1.0 - beta2)?;
    let mut root = second_moment.f_sqrt()?;
    let _ = root.f_mul_scalar_((1.0 - beta2.powf(t)).sqrt().recip())?;
    let _ = root.f_add_scalar_(epsilon)?;
    let mut change = first_moment.f_div(&root)?;
    let _ = change.f_mul_scalar_(learning_rate / (1.0 - beta1.powf(t)))?;
    decay(&values, decayed, 1.0 - learning_rate * weight_decay)?;
    values.f_sub_(&change).map(drop)
}

fn lion(
    config: &Lion,
    moment: &mut Tensor,
    mut values: Tensor,
    gradient: &Tensor,
    decayed: i64,
    share: f64,
) -> tch::Result<()> {
    let learning_rate = config.learning_rate * share;
    let mut change = moment.f_lerp(gradient, 1.0 - config.beta1)?.f_sign_()?;
    let _ = change.f_mul_scalar_(learning_rate)?;
    decay(&values, decayed, 1.0 - learning_rate * config.weight_decay)?;
    let _ = values.f_sub_(&change)?;
    moment.f_lerp_(gradient, 1.0 - config.beta2).map(drop)
}

fn sgd(
    config: &Sgd,
    velocity: &mut Tensor,
    mut values: Tensor,
    mut gradient: Tensor,
    decayed: i64,
    share: f64,
) -> tch::Result<()> {
    let mut matrices = gradient.f_narrow(0, 0, decayed)?;
    let pull = values.f_narrow(0, 0, decayed)?.f_mul_scalar(config.weight_decay)?;
    let _ = matrices.f_add_(&pull)?;
    let _ = velocity.f_mul_scalar_(config.momentum)?;
    let _ = velocity.f_add_(&gradient)?;
    let mut change = if config.nesterov {
        let ahead = velocity.f_mul_scalar(config.momentum)?;
        gradient.f_add_(&ahead)?
    } else {
        velocity.copy()
    };
    let _ = change.f_mul_scalar_(config.learning_rate * share)?;
    values.f_sub_(&change).map(drop)
}

/// Multiplies the first `len` of `values` by `factor`.
fn decay(values: &Tensor, len: i64, factor: f64) -> tch::Result<()> {
    values.f_narrow(0, 0, len)?.f_mul_scalar_(factor).map(drop)
}

/// The matrix of `entry` within `values`, which begin with the value number `first` of the flat
/// parameters.
fn matrix(values: &Tensor, entry: &Entry, first: usize) -> tch::Result<Tensor> {
    let start = (entry.start - first) as i64;
    values.f_narrow(0, start, entry.len as i64)?.f_view(entry.shape.as_slice())
}

#[cfg(test)]
mod tests;
