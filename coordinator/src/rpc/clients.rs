//! Answers to clients, built from the core's state.

use super::{Service, bad, experiment_id, reject};
use crate::core::state::{Experiment, Trial};
use crate::core::{Core, Submission};
use crate::driver::Message;
use prost::Message as _;
use proto::wire::MESSAGE_BYTES_MAX;
use proto::wire::{
    AgentView, AgentsReply, AttemptRef, CancelReply, ExperimentReply, ExperimentRequest,
    ExperimentSummary, ExperimentsReply, Gpu, Measured, SubmitReply, SubmitRequest, TrialView,
    WithdrawnGpu,
};
use proto::{BlobRef, ExperimentId, Inputs, Timestamp, TrialId};
use tonic::Status;

/// Trials of one reply in bytes: half a message, so that the recipe fits beside them. One trial is
/// a few KB, so every page has many.
const PAGE_BYTES: usize = MESSAGE_BYTES_MAX / 2;
/// Longest name of a user; it stands in the journal.
const USER_BYTES_MAX: usize = 128;

pub(super) async fn submit(
    service: &Service,
    request: SubmitRequest,
) -> Result<SubmitReply, Status> {
    let inputs: Inputs = serde_json::from_str(&request.inputs_json).map_err(bad("inputs_json"))?;
    for BlobRef { blob, .. } in inputs.data.iter().chain(inputs.files.values()) {
        if !service.blobs.contains(blob) {
            return Err(Status::failed_precondition(format!(
                "file {blob} is not stored here; send it with PutBlob first"
            )));
        }
    }
    let before = *service.last.borrow();
    if request.user.len() > USER_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "a user's name has at most {USER_BYTES_MAX} bytes"
        )));
    }
    let submission = Submission {
        recipe: request.recipe,
        inputs,
        retry_failed: request.retry_failed,
        user: request.user,
    };
    let message = |answer| Message::submit(submission, answer);
    let submitted = service.call(message).await?.map_err(reject)?;
    Ok(SubmitReply {
        experiment: submitted.experiment.into(),
        existed: submitted.existed,
        sequence: if submitted.existed { 1 } else { before + 1 },
    })
}

pub(super) async fn cancel(
    service: &Service,
    request: &ExperimentRequest,
) -> Result<CancelReply, Status> {
    let experiment = experiment_id(&request.experiment)?;
    let id = experiment.clone();
    service.call(|answer| Message::cancel(experiment, answer)).await?.map_err(reject)?;
    let state = service.ask(move |core, _| core.experiments().get(&id).map(|e| e.state)).await?;
    Ok(CancelReply { state: state.map_or_else(String::new, |state| state.word().to_owned()) })
}

pub(super) async fn experiments(service: &Service) -> Result<ExperimentsReply, Status> {
    let experiments = service
        .ask(|core, _| {
            let summary = |(id, experiment)| summary(id, experiment);
            core.experiments().iter().map(summary).collect()
        })
        .await?;
    Ok(ExperimentsReply { experiments })
}

pub(super) async fn experiment(
    service: &Service,
    request: &ExperimentRequest,
) -> Result<ExperimentReply, Status> {
    let id = experiment_id(&request.experiment)?;
    let (wanted, first) = (id.clone(), request.first_trial as usize);
    let reply = service
        .ask(move |core, now| {
            let experiment = core.experiments().get(&wanted)?;
            let view = |id: &TrialId| Some(trial(core, now, id, core.trial(id)?));
            let mut bytes = 0;
            let fits = |view: &TrialView| {
                bytes += view.encoded_len();
                bytes <= PAGE_BYTES
            };
            Some((
                summary(&wanted, experiment),
                experiment.recipe.clone(),
                experiment.inputs.clone(),
                experiment.trials.iter().skip(first).filter_map(view).take_while(fits).collect(),
                experiment.reasons.clone(),
            ))
        })
        .await?;
    let (summary, recipe, inputs, trials, reasons) =
        reply.ok_or_else(|| reject(crate::core::Rejection::UnknownExperiment(id)))?;
    let inputs_json = serde_json::to_string(&inputs).map_err(super::internal)?;
    Ok(ExperimentReply { summary: Some(summary), recipe, inputs_json, trials, reasons })
}

pub(super) async fn agents(service: &Service) -> Result<AgentsReply, Status> {
    let agents = service
        .ask(|core, _| {
            let view = |(id, agent): (&proto::AgentId, &crate::core::Agent)| {
                let free = core.free(agent);
                AgentView {
                    agent: id.to_string(),
                    host: agent.capacity.host.clone(),
                    connected: agent.connected,
                    cpus: agent.capacity.cpus,
                    cpus_free: free.cpus.len() as u32,
                    gpus: agent.capacity.gpus.iter().map(gpu).collect(),
                    gpus_free: free.whole_gpus() as u32,
                    running: core.running_on(agent).map(AttemptRef::new).collect(),
                    withdrawn: agent.capacity.withdrawn.iter().map(withdrawn).collect(),
                }
            };
            core.agents().iter().map(view).collect()
        })
        .await?;
    Ok(AgentsReply { agents })
}

fn measured(measured: &studies::study::Measured) -> Measured {
    Measured { rung: measured.rung, value: measured.value, order: measured.order }
}

fn gpu(gpu: &crate::core::Gpu) -> Gpu {
    Gpu { index: gpu.index, name: gpu.name.clone(), memory_bytes: gpu.memory_bytes }
}

fn withdrawn((index, reason): (&u32, &String)) -> WithdrawnGpu {
    WithdrawnGpu { index: *index, reason: reason.clone() }
}

fn summary(id: &ExperimentId, experiment: &Experiment) -> ExperimentSummary {
    let counts = Core::counts(experiment);
    ExperimentSummary {
        experiment: id.to_string(),
        state: experiment.state.word().to_owned(),
        submitted_ms: experiment.submitted_at.0,
        trials: counts.trials as u32,
        ended: counts.ended as u32,
        running: counts.running as u32,
    }
}

pub(super) fn trial(core: &Core, now: Timestamp, id: &TrialId, trial: &Trial) -> TrialView {
    let json = |outcome| serde_json::to_string(outcome).unwrap_or_default();
    TrialView {
        trial: id.to_string(),
        state: core.trial_word(trial, now).to_owned(),
        attempts: trial.attempt.0,
        spec_json: serde_json::to_string(&*trial.spec).unwrap_or_default(),
        outcome_json: trial.outcome().map(json).unwrap_or_default(),
        agent: trial.last_agent.as_ref().map_or_else(String::new, ToString::to_string),
        waiting_for: core.waits(id, now).map_or_else(String::new, |waits| waits.to_string()),
        code_version: trial.code_version.clone(),
        measured: trial.measured.iter().map(measured).collect(),
    }
}
