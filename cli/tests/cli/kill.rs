//! Goal: whatever is killed with -9 while a sweep trains, it goes on, and every final loss has the
//! same bits as in a sweep that nobody disturbed; no trial is lost, none counts twice.
//!
//! Method: the real programs train real (small) models. Victims are found in `/proc`; the moments
//! are drawn from a fixed seed, so that a failure can be repeated about as it was.

use crate::bench::Bench;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Six trainings of some seconds each, so that a kill finds them at work.
const RECIPE: &str = r#"
apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: kill}
spec:
  study:
    isoflop:
      data: {files: text.txt}
      flop_budgets: [3.0e10, 1.0e11]
      widths: [16, 24, 32]
      closed_loop: {extra_cells_max: 0}
      fit: {resamples: 0}
  retries: {infrastructure: 100}
  checkpoint: {every: 100ms}
"#;

/// Trials of the recipe, by id: state and the bits of the loss.
type Results = BTreeMap<String, (String, Option<u64>)>;

/// A text with some structure, the same on every machine.
fn text() -> String {
    let mut random = StdRng::seed_from_u64(1);
    let words = ["brine ", "salt ", "water ", "trial ", "agent ", "lease ", "of ", "the ", "and\n"];
    (0..60_000).map(|_| *words.choose(&mut random).expect("there are words")).collect()
}

fn prepare() -> Bench {
    let bench = Bench::new();
    bench.write("text.txt", &text());
    bench.write("kill.yaml", RECIPE);
    bench
}

fn results(bench: &Bench, data_dir: &str) -> Results {
    let ended = bench.brine(&["results", "--data-dir", data_dir, "--output", "json"]).code(0);
    let json = ended.json();
    assert_eq!(json["state"], "complete", "{json:#}");
    let trial = |trial: &Value| {
        let loss = trial["metrics"]["validation_loss"].as_f64().map(f64::to_bits);
        let text = |key: &str| trial[key].as_str().expect("a text").to_owned();
        (text("id"), (text("state"), loss))
    };
    let trials = json["trials"].as_array().expect("a list");
    let results: Results = trials.iter().map(trial).collect();
    assert_eq!(results.len(), trials.len(), "no trial is listed twice");
    results
}

/// Runs the sweep with nobody disturbing it.
fn undisturbed(bench: &Bench) -> Results {
    bench.brine(&["run", "kill.yaml", "--data-dir", "calm", "--output", "quiet"]).code(0);
    let results = results(bench, "calm");
    assert!(results.len() >= 4, "{results:?}");
    assert!(results.values().all(|(state, loss)| state == "completed" && loss.is_some()));
    results
}

/// A process from `/proc`: its id, its parent's, its arguments.
struct Process {
    id: i32,
    parent: i32,
    arguments: String,
}

fn processes() -> Vec<Process> {
    let read = |entry: std::fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        Some(Process { id, parent, arguments })
    };
    let entries = std::fs::read_dir("/proc").expect("Linux has /proc");
    entries.filter_map(Result::ok).filter_map(read).collect()
}

/// All descendants of `ancestor` whose arguments contain `word`.
fn descendants(ancestor: i32, word: &str) -> Vec<i32> {
    let all = processes();
    let mut family = vec![ancestor];
    let mut index = 0;
    while let Some(&parent) = family.get(index) {
        family.extend(all.iter().filter(|p| p.parent == parent).map(|p| p.id));
        index += 1;
    }
    let matches = |p: &&Process| family[1..].contains(&p.id) && p.arguments.contains(word);
    all.iter().filter(matches).map(|p| p.id).collect()
}

fn kill(id: i32) {
    // It may have ended by itself in this moment.
    let pid = rustix::process::Pid::from_raw(id).expect("process ids are positive");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

fn start(bench: &Bench, arguments: &[&str]) -> Child {
    let mut command = bench.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("brine can be started")
}

#[test]
fn a_sweep_survives_kills_of_its_trials_its_agent_and_itself() {
    let bench = prepare();
    let calm = undisturbed(&bench);
    let mut random = StdRng::seed_from_u64(20_261_123);
    let arguments = ["run", "kill.yaml", "--data-dir", "wild", "--output", "quiet"];
    let mut child = start(&bench, &arguments);
    let (mut killed, mut kills) = (BTreeMap::new(), 0);
    while kills < 9 {
        std::thread::sleep(Duration::from_millis(random.random_range(300..1_200)));
        if child.try_wait().expect("a child can be asked").is_some() {
            break;
        }
        let brine = i32::try_from(child.id()).expect("process ids are small");
        let (kind, victims) = match kills % 3 {
            0 => ("trial", descendants(brine, "run-trial")),
            1 => ("agent", descendants(brine, "--exit-with-stdin")),
            _ => ("brine", vec![brine]),
        };
        let Some(&victim) = victims.choose(&mut random) else { continue };
        kill(victim);
        *killed.entry(kind).or_insert(0) += 1;
        kills += 1;
        if kind == "brine" {
            child.wait().expect("a child can be waited for");
            child = start(&bench, &arguments);
        }
    }
    assert!(killed.len() == 3, "the sweep was over too soon to kill all kinds: {killed:?}");
    let status = child.wait().expect("a child can be waited for");
    assert_eq!(status.code(), Some(0));
    assert_eq!(results(&bench, "wild"), calm, "killed {killed:?}");
}

#[test]
fn two_agents_share_an_experiment_and_one_may_die() {
    let bench = prepare();
    let calm = undisturbed(&bench);
    let mut fleet = Fleet::start(&bench);
    bench.brine(&["submit", "kill.yaml"]).code(0);
    crate::bench::wait_until("the first agent runs a trial", || fleet.trials(0).len() == 1);
    kill(fleet.agent(0));
    fleet.agents[0].wait().expect("a child can be waited for");
    bench.brine(&["watch", "--output", "quiet"]).code(0);
    assert_eq!(results(&bench, ".brine"), calm);
}

/// One training by two members, of some seconds.
const GANG: &str = r#"
apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: gang}
spec:
  study:
    train:
      data: {files: text.txt}
      model: {sequence: 64, width: 32, layers: 2, heads: 2}
      batch: 8
      length: {steps: 1500}
      validation: {tokens: 4096, every_steps: 500}
  members: MEMBERS
  retries: {infrastructure: 100}
  checkpoint: {every: 100ms}
"#;

/// The results of [`GANG`] with `members`, after as many kills of members.
fn train_together(members: u32, kills: u32) -> Results {
    let bench = Bench::new();
    bench.write("text.txt", &text());
    bench.write("gang.yaml", &GANG.replace("MEMBERS", &members.to_string()));
    let fleet = Fleet::start(&bench);
    bench.brine(&["submit", "gang.yaml"]).code(0);
    let mut random = StdRng::seed_from_u64(20_261_127);
    for number in 0..kills {
        crate::bench::wait_until("all members train", || {
            (0..2).all(|agent| fleet.trials(agent).len() == 1)
        });
        std::thread::sleep(Duration::from_millis(random.random_range(1_000..2_500)));
        let victims = fleet.trials(number as usize % 2);
        let Some(&victim) = victims.first() else { panic!("the training was over too soon") };
        kill(victim);
    }
    bench.brine(&["watch", "--output", "quiet"]).code(0);
    let ended = bench.brine(&["results", "--output", "json"]).code(0).json();
    let attempts = ended["trials"][0]["attempts"].as_u64();
    assert_eq!(attempts, Some(u64::from(kills) + 1), "{ended:#}");
    let id = ended["trials"][0]["id"].as_str().expect("a text").to_owned();
    let metrics = bench.brine(&["metrics", &id, "--output", "json"]).code(0).json();
    let series = metrics["series"].as_array().expect("a list");
    let losses = series.iter().filter(|series| series["metric"] == "validation_loss");
    assert_eq!(losses.count(), 1, "the first member's and no other: {metrics:#}");
    results(&bench, ".brine")
}

#[test]
fn a_gang_on_two_agents_trains_as_one_process_and_goes_on_to_the_same_bits_after_kills() {
    let calm = train_together(2, 0);
    assert_eq!(train_together(2, 3), calm);
    let loss = |results: &Results| {
        let (_, loss) = results.values().next().expect("one trial");
        f64::from_bits(loss.expect("a loss"))
    };
    let alone = loss(&train_together(1, 0));
    // The order of the gradients' sums differs, over 1,500 updates.
    let difference = (loss(&calm) - alone).abs();
    assert!(difference < 0.02, "{} and {alone}", loss(&calm));
}

/// A coordinator and two agents of one slot each.
struct Fleet {
    coordinator: Child,
    agents: [Child; 2],
}

impl Fleet {
    fn start(bench: &Bench) -> Self {
        let mut coordinator = bench.command(&["coordinator", "--listen", "127.0.0.1:0"]);
        let coordinator = coordinator.stderr(Stdio::null()).spawn().expect("brine starts");
        let address = bench.wait_for(".brine/address", |text| text.starts_with("http"));
        let agents = ["first", "second"].map(|name| agent(bench, address.trim(), name));
        Self { coordinator, agents }
    }

    fn agent(&self, index: usize) -> i32 {
        i32::try_from(self.agents[index].id()).expect("process ids are small")
    }

    /// The processes of trainings on one of the agents.
    fn trials(&self, index: usize) -> Vec<i32> {
        descendants(self.agent(index), "run-trial")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.agents.iter_mut().chain([&mut self.coordinator]) {
            // One may have ended before.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn agent(bench: &Bench, url: &str, name: &str) -> Child {
    // As brine itself finds it: named, or beside the program.
    let beside = || Path::new(env!("CARGO_BIN_EXE_brine")).with_file_name("brine-agent");
    let program = std::env::var_os("BRINE_AGENT").map_or_else(beside, PathBuf::from);
    assert!(program.is_file(), "build it first: cargo build --release -p brine-agent-node");
    Command::new(program)
        .args(["--coordinator", url, "--token-file", ".brine/token", "--id", name])
        .args(["--data-dir", name, "--cpus", "1", "--gpus", "none"])
        .current_dir(bench.path("."))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the agent can be started")
}
