//! What a recorded fact changes. Total: a replay uses only this.

use super::agent::{Held, Strikes};
use super::schedule::is_same_shape;
use super::state::{
    Experiment, FAILED_MAX, FailedAttempt, Lease, Member, Noticed, Trial, TrialState, Usage,
};
use super::{AGENTS_MAX, Core};
use proto::{
    AgentId, AttemptKey, Event, ExperimentId, ExperimentState, FailureClass, Inputs, Outcome,
    Timestamp, TrialId, TrialSpec,
};
use std::collections::BTreeSet;
use studies::recipe::{Policy, Recipe};
use studies::study::Study;

/// What a recipe's text means to this version of Brine.
fn read(recipe: &str, inputs: &Inputs) -> Result<(Policy, Box<dyn Study>), String> {
    let recipe = Recipe::parse(recipe).map_err(|error| error.to_string())?;
    let study = recipe.study(inputs).map_err(|error| error.to_string())?;
    Ok((recipe.policy, study))
}

impl Core {
    /// Takes in one recorded fact.
    pub fn apply(&mut self, at: Timestamp, event: &Event) {
        self.quiet_since = None;
        match event {
            Event::ExperimentSubmitted { experiment, recipe, inputs, user } => {
                self.apply_submitted(at, experiment, recipe, inputs, user);
            }
            Event::RecipeChanged { experiment, recipe } => {
                if let Some(known) = self.experiments.get_mut(experiment) {
                    recipe.clone_into(&mut known.recipe);
                    if let Ok((policy, _)) = read(recipe, &known.inputs) {
                        known.policy = policy;
                    }
                }
            }
            Event::TrialsPlanned { experiment, reason, trials } => {
                self.give_reason(experiment, reason);
                // A study that enumerates its trials has listed the first ones.
                if let Some(known) = self.experiments.get_mut(experiment) {
                    known.next_index += trials.len() as u64;
                }
                self.add_trials(at, experiment, trials);
            }
            Event::RangePlanned { experiment, reason, count, first } => {
                self.give_reason(experiment, reason);
                self.apply_range(experiment, *count, first);
            }
            Event::TrialsDrawn { experiment, count } => self.apply_drawn(at, experiment, *count),
            Event::ExperimentResumed { experiment, retried } => {
                self.apply_resumed(at, experiment, retried);
            }
            Event::ExperimentEnded { experiment, state } => self.apply_ended(experiment, *state),
            Event::LeaseGranted { .. } => self.apply_granted(at, event),
            Event::AttemptPreempted { trial, attempt, by } => {
                self.apply_preempted(at, trial, *attempt, by);
            }
            Event::AttemptStarted { trial, attempt } => {
                self.change_lease(trial, *attempt, |lease| {
                    lease.members.iter_mut().for_each(|member| member.started = true);
                });
            }
            Event::MemberEnded { trial, attempt, rank, outcome } => {
                let key = AttemptKey { trial: trial.clone(), attempt: *attempt, rank: *rank };
                self.apply_member_ended(key, outcome);
            }
            Event::Measured { trial, rung, value, .. } => self.apply_measured(trial, *rung, *value),
            Event::Noticed { trial, attempt, notice } => {
                self.apply_noticed(
                    trial,
                    Noticed { attempt: *attempt, at, notice: notice.clone() },
                );
            }
            Event::CheckpointSaved { trial, checkpoint } => {
                if let Some(trial) = self.trials.get_mut(trial) {
                    let known = trial.checkpoint.as_ref().map_or(0, |known| known.step);
                    // Progress shows that the trial is not what kills its machines, however often
                    // they die: only failures without any step in between count together.
                    if checkpoint.step > known {
                        trial.failures.remove(&FailureClass::Infrastructure);
                    }
                    trial.checkpoint = Some(checkpoint.clone());
                }
            }
            Event::AttemptFailed { trial, outcome, retry_at, .. } => {
                self.apply_failed(at, trial, outcome, *retry_at);
            }
            Event::TrialEnded { trial, attempt, outcome } => {
                self.release(at, trial, Some(outcome));
                let outcome = outcome.clone();
                self.set_state(trial, TrialState::Ended { attempt: *attempt, outcome });
            }
        }
    }

    fn apply_submitted(
        &mut self,
        at: Timestamp,
        id: &ExperimentId,
        recipe: &str,
        inputs: &Inputs,
        user: &str,
    ) {
        let (policy, study) = match read(recipe, inputs) {
            Ok((policy, study)) => (policy, Ok(study)),
            Err(error) => (Policy::default(), Err(error)),
        };
        let known = Experiment {
            recipe: recipe.to_owned(),
            inputs: inputs.clone(),
            user: user.to_owned(),
            policy,
            study,
            trials: Vec::new(),
            open: 0,
            undrawn: 0,
            next_index: 0,
            state: ExperimentState::Running,
            submitted_at: at,
            order: self.experiments.len() as u64,
            reasons: Vec::new(),
            running: 0,
            is_uniform: true,
            queue: BTreeSet::new(),
            used: Usage::default(),
            leased: 0,
            held: 0,
        };
        self.experiments.insert(id.clone(), known);
        self.stale.insert(id.clone());
    }

    fn give_reason(&mut self, id: &ExperimentId, reason: &str) {
        if let Some(experiment) = self.experiments.get_mut(id) {
            experiment.reasons.push(reason.to_owned());
        }
    }

    fn apply_range(&mut self, id: &ExperimentId, count: u64, first: &TrialId) {
        let Some(experiment) = self.experiments.get_mut(id) else {
            return;
        };
        let index = experiment.next_index + experiment.undrawn;
        let planned = experiment.study.as_ref().ok().and_then(|study| study.trial(index));
        if planned.is_some_and(|spec| spec.id() != *first) {
            // Its drawn trials would be other ones than those that were recorded.
            experiment.study =
                Err("this version of Brine plans other trials from the recipe than \
                                    the one that began it"
                    .to_owned());
        }
        experiment.undrawn = experiment.undrawn.saturating_add(count);
        self.mark_stale(id);
    }

    fn apply_drawn(&mut self, at: Timestamp, id: &ExperimentId, count: u64) {
        let Some(experiment) = self.experiments.get_mut(id) else {
            return;
        };
        let first = experiment.next_index;
        experiment.next_index = first.saturating_add(count);
        experiment.undrawn = experiment.undrawn.saturating_sub(count);
        let Ok(study) = &experiment.study else {
            return;
        };
        let specs: Vec<TrialSpec> =
            (first..experiment.next_index).map_while(|index| study.trial(index)).collect();
        self.add_trials(at, id, &specs);
    }

    fn add_trials(&mut self, at: Timestamp, id: &ExperimentId, specs: &[TrialSpec]) {
        let Some(experiment) = self.experiments.get_mut(id) else {
            return;
        };
        let mut planned = Vec::with_capacity(specs.len());
        for spec in specs {
            let trial_id = spec.id();
            self.planned += 1;
            let trial = self
                .trials
                .entry(trial_id.clone())
                .or_insert_with(|| Trial::new(spec.clone(), self.planned, at));
            if trial.owners.insert(id.clone()) {
                experiment.trials.push(trial_id.clone());
                experiment.open += usize::from(trial.outcome().is_none());
                experiment.running += usize::from(trial.lease().is_some());
            }
            // An older experiment's trial keeps the labels and the time limit that it came with.
            let own = std::sync::Arc::clone(&trial.spec);
            let first = experiment.trials.first().and_then(|first| self.trials.get(first));
            experiment.is_uniform &= first.is_some_and(|first| is_same_shape(&first.spec, &own));
            planned.push(trial_id);
        }
        planned.iter().for_each(|trial_id| self.requeue(trial_id));
        self.mark_stale(id);
    }

    fn apply_resumed(&mut self, at: Timestamp, id: &ExperimentId, retried: &[TrialId]) {
        for trial_id in retried {
            if let Some(trial) = self.trials.get_mut(trial_id) {
                trial.failures.clear();
            }
            let state = TrialState::Waiting { since: at, not_before: Timestamp(0) };
            self.set_state(trial_id, state);
        }
        let Some(experiment) = self.experiments.get_mut(id) else {
            return;
        };
        experiment.state = ExperimentState::Running;
        self.requeue_all(id);
        self.mark_stale(id);
    }

    fn apply_ended(&mut self, id: &ExperimentId, state: ExperimentState) {
        let Some(experiment) = self.experiments.get_mut(id) else {
            return;
        };
        experiment.state = state;
        self.stale.remove(id);
        self.requeue_all(id);
    }

    /// Its state changed, and with it whether its trials are wanted.
    fn requeue_all(&mut self, id: &ExperimentId) {
        let trials = self.experiments.get(id).map_or_else(Vec::new, |known| known.trials.clone());
        for trial_id in trials {
            self.requeue(&trial_id);
            // Nobody waits for the place that was to be made for it.
            self.reservations.remove(&trial_id);
            if self.trials.get(&trial_id).is_some_and(|trial| trial.lease().is_some()) {
                self.doubtful.insert(trial_id);
            }
        }
    }

    fn apply_granted(&mut self, at: Timestamp, event: &Event) {
        let Event::LeaseGranted {
            trial: id,
            attempt,
            agent,
            devices,
            code_version,
            choice,
            members,
            payer,
        } = event
        else {
            return;
        };
        let deadline = at.plus_ms(self.lease_ttl_ms);
        let member = |agent: &AgentId, devices: &proto::Devices| Member {
            agent: agent.clone(),
            devices: devices.clone(),
            deadline,
            started: false,
            outcome: None,
        };
        let leader = std::iter::once(member(agent, devices));
        let others = members.iter().map(|other| member(&other.agent, &other.devices));
        let Some(trial) = self.trials.get_mut(id) else {
            return;
        };
        let is_first = trial.attempt.0 == 0;
        trial.attempt = *attempt;
        trial.last_agent = Some(agent.clone());
        trial.last_agent_failed = false;
        code_version.clone_into(&mut trial.code_version);
        let lease = Lease {
            attempt: *attempt,
            choice: *choice,
            granted_at: at,
            payer: payer.clone(),
            members: leader.chain(others).collect(),
            preempted: None,
        };
        for (key, member) in lease.live(id) {
            self.expiries.insert((deadline, key.clone()));
            if let Some(agent) = self.agents.get_mut(&member.agent) {
                let held = Held::new(member.devices.clone(), trial.spec.choice(*choice));
                if let Some(free) = &mut agent.free {
                    free.take(&held);
                }
                let version = agent.change();
                agent.leases.insert(key, version);
                self.changed.insert(member.agent.clone());
            }
        }
        if let Some(payer) = payer.as_ref().and_then(|id| self.experiments.get_mut(id)) {
            payer.leased += 1;
            payer.held += lease.units();
            if is_first {
                payer.used.trials += 1;
                payer.used.flops += trial.spec.flops();
            }
        }
        self.set_state(id, TrialState::Leased(Box::new(lease)));
    }

    fn apply_preempted(
        &mut self,
        at: Timestamp,
        id: &TrialId,
        attempt: proto::Attempt,
        by: &TrialId,
    ) {
        self.yielding.insert((at, id.clone()));
        self.change_lease(id, attempt, |lease| lease.preempted = Some((by.clone(), at)));
        let Some(lease) = self.trials.get(id).and_then(Trial::lease) else {
            return;
        };
        let kept = self.reservations.entry(by.clone()).or_default();
        kept.0 = at;
        for (key, member) in lease.live(id) {
            kept.1.insert(member.agent.clone());
            if let Some(agent) = self.agents.get_mut(&member.agent) {
                let version = agent.change();
                agent.leases.insert(key, version);
                self.changed.insert(member.agent.clone());
            }
        }
    }

    fn change_lease(
        &mut self,
        id: &TrialId,
        attempt: proto::Attempt,
        change: impl FnOnce(&mut Lease),
    ) {
        if let Some(TrialState::Leased(lease)) = self.trials.get_mut(id).map(|t| &mut t.state)
            && lease.attempt == attempt
        {
            change(lease);
        }
    }

    fn apply_member_ended(&mut self, key: AttemptKey, outcome: &Outcome) {
        let Some(trial) = self.trials.get_mut(&key.trial) else {
            return;
        };
        let spec = std::sync::Arc::clone(&trial.spec);
        let TrialState::Leased(lease) = &mut trial.state else {
            return;
        };
        let resources = spec.choice(lease.choice);
        if let Some(member) = lease.members.get_mut(key.rank as usize) {
            member.outcome = Some(outcome.clone());
            self.expiries.remove(&(member.deadline, key.clone()));
            if let Some(agent) = self.agents.get_mut(&member.agent) {
                let held = Held::new(member.devices.clone(), resources);
                agent.drop_lease(key, held, member.deadline);
                self.changed.insert(member.agent.clone());
            }
        }
    }

    fn apply_failed(&mut self, at: Timestamp, id: &TrialId, outcome: &Outcome, retry: Timestamp) {
        if let Outcome::Failed { class, .. } = outcome
            && *class != FailureClass::Cancelled
            && let Some(trial) = self.trials.get_mut(id)
        {
            *trial.failures.entry(*class).or_default() += 1;
            trial.last_agent_failed = *class == FailureClass::Infrastructure;
        }
        self.release(at, id, Some(outcome));
        if let Some(trial) = self.trials.get_mut(id) {
            let (attempt, agent) = (trial.attempt, trial.last_agent.clone());
            trial.failed.push(FailedAttempt { attempt, at, agent, outcome: outcome.clone() });
            if trial.failed.len() > FAILED_MAX {
                trial.failed.remove(0);
            }
        }
        self.set_state(id, TrialState::Waiting { since: at, not_before: retry });
        self.pauses.insert((retry, id.clone()));
    }

    /// Takes the live lease of a trial away; its devices are free once the agents have let go.
    fn release(&mut self, at: Timestamp, id: &TrialId, outcome: Option<&Outcome>) {
        let Some(trial) = self.trials.get(id) else {
            return;
        };
        let Some(lease) = trial.lease().cloned() else {
            return;
        };
        let spec = std::sync::Arc::clone(&trial.spec);
        let resources = spec.choice(lease.choice);
        for (key, member) in lease.live(id) {
            self.expiries.remove(&(member.deadline, key.clone()));
            let Some(agent) = self.agents.get_mut(&member.agent) else {
                let until = self.lingering.get(id).map_or(member.deadline, |(_, until)| *until);
                let until = until.max(member.deadline);
                self.lingering.insert(id.clone(), (member.agent.clone(), until));
                continue;
            };
            if planted!(self, LeaseKept) {
                continue;
            }
            let held = Held::new(member.devices.clone(), resources);
            agent.drop_lease(key.clone(), held, member.deadline);
            if planted!(self, FreeAtOnce) {
                agent.forget_releasing(|other, _| *other == key);
            }
            self.changed.insert(member.agent.clone());
        }
        let leased_ms = at.since_ms(lease.granted_at);
        self.reliability.add(leased_ms, lease.members.len(), outcome);
        self.doubtful.remove(id);
        if let Some((_, asked_at)) = &lease.preempted {
            self.yielding.remove(&(*asked_at, id.clone()));
        }
        if let Some(payer) = lease.payer.as_ref().and_then(|id| self.experiments.get_mut(id)) {
            payer.leased = payer.leased.saturating_sub(1);
            payer.held = payer.held.saturating_sub(lease.units());
            let milli_ms = lease.gpu_milli() * leased_ms;
            payer.used.gpu_ms += milli_ms / 1_000;
        }
        // Whose fault a gang's failure was is not known.
        if let ([member], Some(outcome)) = (&lease.members[..], outcome) {
            self.count_strike(at, &member.agent, outcome);
        }
    }

    fn count_strike(&mut self, at: Timestamp, agent: &AgentId, outcome: &Outcome) {
        match outcome {
            Outcome::Completed { .. } | Outcome::Diverged { .. } => {
                self.strikes.remove(agent);
            }
            Outcome::Failed { class: FailureClass::Infrastructure, .. } => {
                if self.strikes.len() >= AGENTS_MAX && !self.strikes.contains_key(agent) {
                    return;
                }
                let strikes = self.strikes.entry(agent.clone());
                let strikes = strikes.or_insert(Strikes { count: 0, last: at });
                strikes.count = strikes.count.saturating_add(1);
                strikes.last = at;
            }
            Outcome::Failed { .. } => {}
        }
    }

    /// The only place where a trial's state changes, so that the counts and the queues follow.
    fn set_state(&mut self, id: &TrialId, state: TrialState) {
        let Some(trial) = self.trials.get_mut(id) else {
            return;
        };
        let (was_open, was_leased) = (trial.outcome().is_none(), trial.lease().is_some());
        trial.state = state;
        self.reservations.remove(id);
        let (is_open, is_leased) = (trial.outcome().is_none(), trial.lease().is_some());
        let owners: Vec<ExperimentId> = trial.owners.iter().cloned().collect();
        for owner in owners {
            let Some(experiment) = self.experiments.get_mut(&owner) else {
                continue;
            };
            experiment.open += usize::from(is_open);
            experiment.open -= usize::from(was_open);
            experiment.running += usize::from(is_leased);
            experiment.running -= usize::from(was_leased);
            if was_open != is_open {
                self.mark_stale(&owner);
            }
        }
        self.requeue(id);
    }

    pub(super) fn mark_stale(&mut self, id: &ExperimentId) {
        if self.experiments.get(id).is_some_and(|e| e.state == ExperimentState::Running) {
            self.stale.insert(id.clone());
        }
    }

    /// Puts a trial into its experiments' queues, or takes it out, by what it is now.
    fn requeue(&mut self, id: &TrialId) {
        let Some(trial) = self.trials.get(id) else {
            return;
        };
        let waits = matches!(trial.state, TrialState::Waiting { .. });
        let key = (trial.order, id.clone());
        for owner in &trial.owners {
            let Some(experiment) = self.experiments.get_mut(owner) else {
                continue;
            };
            if waits && experiment.state == ExperimentState::Running {
                experiment.queue.insert(key.clone());
            } else {
                experiment.queue.remove(&key);
            }
        }
    }

    /// Whether a running experiment wants the trial's result.
    pub(super) fn is_wanted(&self, trial: &Trial) -> bool {
        let running = |id: &ExperimentId| {
            self.experiments.get(id).is_some_and(|e| e.state == ExperimentState::Running)
        };
        trial.owners.iter().any(running)
    }
}
