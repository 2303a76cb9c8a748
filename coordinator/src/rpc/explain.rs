//! Why a trial waits, or how it came to be where it is.

use super::{Service, clients};
use crate::core::state::{FailedAttempt, Noticed, Trial};
use crate::core::{Core, Waits};
use proto::wire::{self, AttemptRef, ExplainReply, ExplainRequest};
use proto::{AttemptKey, Timestamp, TrialId};
use tonic::Status;

pub(super) async fn explain(
    service: &Service,
    request: ExplainRequest,
) -> Result<ExplainReply, Status> {
    let prefix = request.trial;
    let answer = move |core: &Core, now: Timestamp| {
        let found = core.trials_with_prefix(&prefix);
        match found[..] {
            [id] => {
                core.trial(id).map(|trial| reply(core, now, id, trial)).ok_or_else(|| none(&prefix))
            }
            [] => Err(none(&prefix)),
            [first, second, ..] => Err(Status::invalid_argument(format!(
                "{prefix} begins several trials, such as {first} and {second}; give more digits"
            ))),
        }
    };
    service.ask(answer).await?
}

fn none(prefix: &str) -> Status {
    Status::not_found(format!(
        "no trial begins with {prefix}; `brine status EXPERIMENT` lists those that were drawn"
    ))
}

fn reply(core: &Core, now: Timestamp, id: &TrialId, trial: &Trial) -> ExplainReply {
    let mut reply = ExplainReply {
        trial: Some(clients::trial(core, now, id, trial)),
        experiments: core.owners(trial).into_iter().map(Into::into).collect(),
        failed: trial.failed.iter().map(failed).collect(),
        notices: trial.noticed.iter().map(noticed).collect(),
        checkpoint_json: trial
            .checkpoint
            .as_ref()
            .map(|checkpoint| serde_json::to_string(checkpoint).unwrap_or_default())
            .unwrap_or_default(),
        ..ExplainReply::default()
    };
    if let Some(lease) = trial.lease().filter(|_| core.waits(id, now).is_none()) {
        let by = lease.preempted.as_ref().map(|(by, _)| by.to_string());
        reply.preempted_by = by.unwrap_or_default();
        for (rank, member) in (0..).zip(&lease.members) {
            if member.outcome.is_none() {
                let key = AttemptKey { trial: id.clone(), attempt: lease.attempt, rank };
                reply.running.push(AttemptRef::new(&key));
                reply.agents.push(member.agent.to_string());
            }
        }
    }
    match core.waits(id, now) {
        Some(Waits::Pause(ms)) => reply.wait_ms = ms,
        Some(Waits::Never(shortages)) => reply.shortages = wire_shortages(shortages),
        Some(Waits::Turn { ahead, shortages, yielding }) => {
            reply.ahead = ahead;
            reply.shortages = wire_shortages(shortages);
            reply.yielding = yielding.into_iter().map(Into::into).collect();
        }
        Some(
            Waits::Unwanted
            | Waits::Limit(_)
            | Waits::LettingGo(_)
            | Waits::Line(_)
            | Waits::NoAgent,
        )
        | None => {}
    }
    reply
}

fn wire_shortages(shortages: Vec<crate::core::Shortage>) -> Vec<wire::Shortage> {
    let wire = |shortage: crate::core::Shortage| wire::Shortage {
        agent: shortage.agent.into(),
        lacks: shortage.lacks,
    };
    shortages.into_iter().map(wire).collect()
}

fn noticed(noticed: &Noticed) -> wire::KnownNotice {
    wire::KnownNotice {
        attempt: noticed.attempt.0,
        at_ms: noticed.at.0,
        notice_json: serde_json::to_string(&noticed.notice).unwrap_or_default(),
    }
}

fn failed(failed: &FailedAttempt) -> wire::FailedAttempt {
    wire::FailedAttempt {
        attempt: failed.attempt.0,
        at_ms: failed.at.0,
        agent: failed.agent.as_ref().map_or_else(String::new, ToString::to_string),
        outcome_json: serde_json::to_string(&failed.outcome).unwrap_or_default(),
    }
}
