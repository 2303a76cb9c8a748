//! Who submits what, and whether it is over.

use crate::machine::SHORT;
use crate::nature::What;
use crate::random::Random;
use crate::world::World;
use coordinator::core::{Core, Request, Submission, Waits};
use proto::{ExperimentState, Inputs};

/// How long a client waits for an answer before it asks again.
const PATIENCE_MS: u64 = 3_000;

/// The clients.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    /// Each submits one recipe.
    pub clients: Vec<Client>,
}

/// Somebody who submits a recipe and does not give up before it is accepted.
#[derive(Debug, Clone)]
pub struct Client {
    /// The recipe's text.
    pub recipe: String,
    /// The files it names.
    pub inputs: Inputs,
    /// Who it is.
    pub user: String,
    /// When it begins, in milliseconds.
    pub first_ms: u64,
    /// What it still wants to be done, the next one first.
    pub wishes: Vec<Wish>,
}

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The recipe runs.
    Submit,
    /// The experiment ends.
    Cancel,
    /// What failed is tried again.
    RetryFailed,
}

impl Workload {
    /// Some clients with recipes of all kinds.
    pub fn draw(random: &mut Random) -> Self {
        let clients = (0..random.between(2, 5)).map(|number| Client::draw(random, number));
        Self { clients: clients.collect() }
    }
}

impl Client {
    fn draw(random: &mut Random, number: u64) -> Self {
        let wishes = match random.below(5) {
            0 => vec![Wish::Submit, Wish::Cancel],
            1 => vec![Wish::Submit, Wish::Cancel, Wish::Submit],
            2 => vec![Wish::Submit, Wish::RetryFailed],
            _ => vec![Wish::Submit],
        };
        Self {
            recipe: recipe(random, number),
            inputs: Inputs::default(),
            user: ["ada", "emmy", ""][random.below(3) as usize].to_owned(),
            first_ms: random.between(0, 20_000),
            wishes,
        }
    }
}

/// A sweep of some trials; a few kinds of everything that a recipe can ask for.
fn recipe(random: &mut Random, number: u64) -> String {
    // Short ones stand in lines, if they take nothing but CPU slots.
    let is_short = random.below(3) == 0;
    let trials = if is_short { random.between(10, 60) } else { random.between(1, 24) };
    let values: Vec<String> = (0..trials).map(|value| value.to_string()).collect();
    // Sometimes two clients want the same trials.
    let shared = if is_short { SHORT.to_owned() } else { random.below(3).to_string() };
    let mut lines: Vec<String> = Vec::new();
    let mut line = |text: String| lines.push(format!("  {text}\n"));
    let wants = if is_short { 5 * random.below(2) } else { random.below(6) };
    match wants {
        0 => line("resources: {cpus: 2}".to_owned()),
        1 => line("resources: {cpus: 1, gpus: 1}".to_owned()),
        2 => line("resources: {cpus: 1, gpus: 0.5}".to_owned()),
        3 => line("resources: {cpus: 1, memory: 6GiB}".to_owned()),
        _ => {}
    }
    match random.below(8) {
        0 => line("members: 2".to_owned()),
        1 => line("members: 3".to_owned()),
        2 => line("alternatives: [{cpus: 3}]".to_owned()),
        3 => line("labels: {zone: a}".to_owned()),
        _ => {}
    }
    if random.below(3) == 0 {
        line(format!("priority: {}", random.below(3)));
    }
    match random.below(6) {
        0 => line("limits: {trials_at_once: 2}".to_owned()),
        1 => line("limits: {trials: 7}".to_owned()),
        2 => line("limits: {gpu_hours: 0.002}".to_owned()),
        3 => line("limits: {trial_time: 20s}".to_owned()),
        _ => {}
    }
    match random.below(4) {
        0 => line("hang: {steps: 4, at_least: 2s, then: retry}".to_owned()),
        1 => line("hang: {steps: 4, at_least: 2s}".to_owned()),
        _ => {}
    }
    let (infrastructure, trial) = (random.between(2, 40), random.below(3));
    line(format!("retries: {{infrastructure: {infrastructure}, trial: {trial}}}"));
    format!(
        "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {{name: e{number}}}\nspec:\n  \
         study:\n    sweep:\n      command: {{arguments: [program, \"{shared}\", \"{{x}}\"]}}\n      \
         parameters: {{x: {{choice: [{}]}}}}\n      search: grid\n      \
         metric: {{name: loss, goal: minimize}}\n{}",
        values.join(", "),
        lines.concat()
    )
}

impl World {
    pub(crate) fn client_acts(&mut self, client: usize) {
        let Some(known) = self.nature.settings.workload.clients.get(client) else {
            return;
        };
        let Some(wish) = known.wishes.first().copied() else {
            return;
        };
        let submission = |retry_failed| {
            Request::Submit(Submission {
                recipe: known.recipe.clone(),
                inputs: known.inputs.clone(),
                retry_failed,
                user: known.user.clone(),
            })
        };
        let request = match wish {
            Wish::Submit => Some(submission(false)),
            Wish::RetryFailed => Some(submission(true)),
            Wish::Cancel => studies::recipe::Recipe::parse(&known.recipe)
                .ok()
                .map(|recipe| Request::Cancel(recipe.id(&known.inputs))),
        };
        let Some(request) = request else {
            return;
        };
        // A call may be lost, or arrive although the caller has given up and asks again.
        let is_lost = !self.nature.calm && self.nature.random.chance(100_000);
        if !is_lost {
            let (low, high) = self.nature.chaos.latency_ms;
            let delay = self.nature.random.between(low, high);
            self.nature.after(delay, What::ServerRequest { client, request });
        }
        self.nature.after(PATIENCE_MS, What::ClientActs { client });
    }

    pub(crate) fn client_hears(
        &mut self,
        client: usize,
        accepted: Result<(), String>,
    ) -> Result<(), String> {
        let random = self.nature.random.between(1_000, 30_000);
        let Some(known) = self.nature.settings.workload.clients.get_mut(client) else {
            return Ok(());
        };
        // Two answers to one wish are possible; the second one is taken for the next wish, which
        // is then only wished less hard.
        if known.wishes.is_empty() {
            return Ok(());
        }
        accepted.map_err(|error| format!("a client's wish was refused: {error}"))?;
        known.wishes.remove(0);
        if !known.wishes.is_empty() {
            self.nature.after(random, What::ClientActs { client });
        }
        Ok(())
    }

    /// Whether every client has what it wants, and every experiment is over or waits for something
    /// that will not come by itself.
    pub(crate) fn is_at_rest(&self) -> bool {
        let clients = &self.nature.settings.workload.clients;
        let Some(core) = self.server.core() else {
            return false;
        };
        let wishes = clients.iter().any(|client| !client.wishes.is_empty());
        let busy = core.experiments().values().any(|experiment| {
            experiment.state == ExperimentState::Running
                && (experiment.trials.is_empty()
                    || experiment.trials.iter().any(|id| may_go_on(core, id)))
        });
        let holding = core.agents().values().any(|agent| !agent.leases.is_empty());
        !wishes && !busy && !holding && self.disagreement(core).is_none()
    }

    /// The first connected agent of which the coordinator does not know which GPUs are withdrawn.
    fn disagreement(&self, core: &Core) -> Option<&proto::AgentId> {
        let mut ids = self.machines.iter().filter_map(|machine| {
            let known = core.agents().get(&machine.id).filter(|known| known.connected)?;
            (known.capacity.withdrawn != *machine.withdrawn()?).then_some(&machine.id)
        });
        ids.next()
    }

    /// What keeps the world from rest, in words.
    pub(crate) fn unrest(&self) -> String {
        let Some(core) = self.server.core() else {
            return "the coordinator is dead".to_owned();
        };
        let open = core.trials().iter().filter(|(id, _)| may_go_on(core, id));
        let mut words: Vec<String> = open
            .map(|(id, trial)| format!("{id} {:?} {:?}", trial.state, waits(core, id)))
            .collect();
        words.truncate(3);
        let unknown = self.disagreement(core);
        words.extend(unknown.map(|id| format!("{id} has withdrawn other GPUs than are known")));
        words.join("; ")
    }
}

fn waits(core: &Core, id: &proto::TrialId) -> Option<Waits> {
    // The moment matters only for pauses, which pass.
    core.waits(id, proto::Timestamp(u64::MAX))
}

fn may_go_on(core: &Core, id: &proto::TrialId) -> bool {
    match waits(core, id) {
        Some(Waits::Unwanted | Waits::Limit(_) | Waits::Never(_)) => false,
        Some(
            Waits::Pause(_)
            | Waits::LettingGo(_)
            | Waits::Line(_)
            | Waits::NoAgent
            | Waits::Turn { .. },
        ) => true,
        None => core.trial(id).is_some_and(|trial| trial.outcome().is_none()),
    }
}
