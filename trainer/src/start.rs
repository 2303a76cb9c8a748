//! From where a training goes on: a checkpoint, its first step, or what another member has.

use crate::checkpoint::{self, CheckpointError, Contents, Snapshot, State};
use crate::error::TrainError;
use crate::learner::Learner;
use crate::parallel::{Group, ParallelError};
use crate::parameters::VALUE_BYTES;
use crate::train::{Observer, Setting};
use proto::{BlobId, Checkpoint, TrainSpec};

/// The learner and the state to go on from. Of several members, the one with the most steps in a
/// whole checkpoint hands out what it has, so that all begin with the same bits, wherever the
/// checkpoint lies and whatever machines they are on.
pub(crate) fn start<'a>(
    spec: &'a TrainSpec,
    setting: &Setting<'_>,
    device: tch::Device,
    (resume, contents): (&[Checkpoint], &Contents<'_>),
    group: &mut Group,
    observer: &mut dyn Observer,
) -> Result<(Learner<'a>, State), TrainError> {
    let layout = || contents.layout.clone();
    let mut note = |text: &str| observer.note(text);
    let own = checkpoint::first_intact(resume, contents, &mut note)?;
    if let Some(own) = &own {
        check_belongs(&own.state, setting, &spec.data.text.blob, spec.steps_max())?;
    }
    // A checkpoint of no steps is more than none.
    let (source, best) = group.highest(own.as_ref().map_or(0, |own| own.state.step + 1))?;
    if source != group.rank() {
        drop(own);
        let snapshot = take(group, source, contents)?;
        check_belongs(&snapshot.state, setting, &spec.data.text.blob, spec.steps_max())?;
        let learner = Learner::restored(spec, layout(), &snapshot, device)?;
        let step = snapshot.state.step;
        observer.note(&format!("goes on at step {step} with the state of rank {source}"));
        return Ok((learner, snapshot.state));
    }
    let (learner, state) = match own {
        Some(snapshot) => {
            let learner = Learner::restored(spec, layout(), &snapshot, device)?;
            observer.note(&format!("resumed from the checkpoint at step {}", best - 1));
            (learner, snapshot.state)
        }
        None => {
            if !resume.is_empty() {
                observer.note("no checkpoint is whole; starting from step 0");
            }
            let learner = Learner::new(spec, layout(), setting.seed, device)?;
            (learner, State::new(setting.seed, spec.data.text.blob.clone()))
        }
    };
    if group.size() > 1 {
        hand_out(group, learner.snapshot(&state)?.finish()?.0);
    }
    Ok((learner, state))
}

fn hand_out(group: &mut Group, snapshot: Snapshot) {
    let Snapshot { state, parameters, moments, second } = snapshot;
    let sets = [parameters].into_iter().chain(moments).chain(second);
    group.hand_out([state.to_json()].into_iter().chain(sets.map(|set| set.to_vec())));
}

fn take(group: &mut Group, source: u32, contents: &Contents<'_>) -> Result<Snapshot, TrainError> {
    let state = serde_json::from_slice(&group.take(source)?).map_err(|error| {
        ParallelError::out_of_step(source, error.to_string(), "a training's state")
    })?;
    let mut tensors = |values: usize| {
        let bytes = group.take(source)?;
        let words = |length: usize| format!("{length} bytes of a state");
        match bytes.len() == VALUE_BYTES * values {
            true => Ok(bytes.into()),
            false => {
                let wanted = words(VALUE_BYTES * values);
                Err(ParallelError::out_of_step(source, words(bytes.len()), wanted))
            }
        }
    };
    let all = contents.layout.entries();
    let parameters = tensors(contents.layout.len())?;
    let moments = contents
        .moments
        .iter()
        .map(|place| tensors(all[place.entries.clone()].iter().map(|entry| entry.len).sum()));
    let moments = moments.collect::<Result<_, _>>()?;
    let second = contents.second.map(|_| tensors(contents.layout.len())).transpose()?;
    Ok(Snapshot { state, parameters, moments, second })
}

/// Whether a state is of the training of `steps` updates on `data`.
pub(crate) fn check_belongs(
    state: &State,
    setting: &Setting<'_>,
    data: &BlobId,
    steps: u64,
) -> Result<(), CheckpointError> {
    let limit = format!("at most {steps}");
    let facts = [
        ("seed", state.seed == setting.seed, state.seed.to_string(), setting.seed.to_string()),
        ("data", state.data == *data, state.data.to_string(), data.to_string()),
        ("step", state.step <= steps, state.step.to_string(), limit),
    ];
    match facts.into_iter().find(|(_, fits, ..)| !fits) {
        None => Ok(()),
        Some((field, _, found, wanted)) => {
            Err(CheckpointError::OtherTrial { field, found, wanted })
        }
    }
}
