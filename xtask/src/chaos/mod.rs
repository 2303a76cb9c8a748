//! `cargo xtask chaos`: real processes, real faults, and a checker that compares what was
//! acknowledged with what is there.
//!
//! A coordinator and agents are killed, frozen, cut off and left without disk while sweeps are
//! submitted. Faults are drawn from a seed, cycle by cycle; they overlap. Every few cycles, and at
//! the end, everything may come to rest, and the records that `brine watch` prints are compared
//! with the ledger that the trials' own programs wrote.

mod check;
mod client;
mod disk;
mod fleet;
pub(crate) mod janitor;
mod plan;
mod processes;
mod proxy;
mod random;
mod records;
mod rest;
mod story;
mod submissions;
mod sweeps;
mod world;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::terminal::say;
use check::Findings;
use client::Client;
use disk::Means;
use fleet::{Fleet, Ground};
use janitor::Janitor;
use plan::{CYCLE_MS, KINDS, Plan, Target};
use story::{Story, now};
use sweeps::{Kind, PROGRAM, PROGRAM_NAME, Sweep};
use world::World;

/// Agents that are tormented. With two, one can take over what the other loses.
const AGENTS: usize = 2;
/// Every so many cycles everything may come to rest and is checked.
const REST_EVERY: u64 = 10;
/// Pause between two looks at whether something is due.
const POLL_PERIOD: Duration = Duration::from_millis(20);
/// Ports for the coordinator. The kernel gives none of them to a connection by itself, so the
/// coordinator finds its own free after every death.
const PORTS: std::ops::Range<u16> = 21_000..28_000;
/// Tries after which a fault that never struck is not bad luck.
const MISSES_MAX: u64 = 8;

/// What `cargo xtask chaos` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Cycles of faults
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) cycles: u64,
    /// Draws the faults [default: a new one, which is printed]
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// End after this many minutes, whatever cycles are left
    #[arg(long, value_name = "M")]
    pub(crate) minutes: Option<u64>,
    /// Folder with `brine` and `brine-agent` [default: they are built]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) programs: Option<PathBuf>,
}

/// Torments the programs in `programs`; says what was done. The error of a contradiction says
/// everything that is needed to look.
///
/// # Errors
/// A contradiction was found, or the chaos itself cannot go on.
pub(crate) fn chaos(programs: &Path, options: &Options) -> Result<String> {
    let seed = options.seed.unwrap_or_else(new_seed);
    let folder = tempfile::Builder::new().prefix("brine-chaos-").tempdir();
    // The janitor removes it; it is the one that outlives this process.
    let folder = folder.context("cannot make a folder")?.keep();
    let janitor = Janitor::start(&folder)?;
    let result = torment(&folder, programs, options, seed);
    let finished = janitor.finish(result.is_err());
    result.with_context(|| {
        let folder = folder.display();
        format!(
            "chaos with --seed {seed} failed; what happened is in {folder}/story.txt, beside it \
             are logs, recipes, the ledger and every data folder"
        )
    })
    .and_then(|words| finished.map(|()| words))
}

fn torment(folder: &Path, programs: &Path, options: &Options, seed: u64) -> Result<String> {
    let mut world = prepare(folder, programs)?;
    say(&format!("chaos: seed {seed}, {} cycles, in {}", options.cycles, folder.display()));
    match world.fleet.means() {
        Some(Means::SmallDisk) => {}
        Some(Means::FileSizes) | None => {
            say(
                "chaos: this machine lets nobody mount a small disk; full disks are imitated by a \
                 limit on the size of files",
            );
        }
    }
    world.wake(AGENTS)?;
    let begun = now();
    let time = options.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let mut cycles = 0;
    for cycle in 1..=options.cycles {
        let rests = cycle % REST_EVERY == 0;
        perform(&mut world, seed, cycle, rests)?;
        cycles = cycle;
        if time.is_some_and(|time| begun.elapsed() > time) {
            break;
        }
    }
    let findings = finish(&mut world, cycles)?;
    summarise(&world, &findings, cycles, begun);
    let harmless: Vec<&str> =
        KINDS.into_iter().filter(|kind| misses_always(&world, kind)).collect();
    ensure!(harmless.is_empty(), "these faults never found anything: {}", harmless.join(", "));
    Ok(format!("seed {seed}, {cycles} cycles, {}", words(&findings)))
}

/// One cycle and its line.
fn perform(world: &mut World, seed: u64, cycle: u64, rests: bool) -> Result<()> {
    let plan = plan::draw(seed, cycle, AGENTS);
    let mut parts = vec![describe(cycle, &plan)];
    world.story.tell(&parts[0])?;
    world.begin(plan)?;
    world.pass(Duration::from_millis(CYCLE_MS))?;
    if rests {
        let took = world.rest()?;
        parts.push(format!("rest after {:.1} s", took.as_secs_f64()));
        if world.contradictions.is_empty() {
            let findings = world.look(false)?;
            parts.push(words(&findings));
        }
    } else {
        world.glance()?;
    }
    say(&parts.join("; "));
    judge(world, cycle)
}

/// The last rest. The coordinator dies once more, so that every record is read from its disk, and
/// each is compared with what was read before.
fn finish(world: &mut World, cycle: u64) -> Result<Findings> {
    let took = world.rest()?;
    judge(world, cycle)?;
    world.look(false)?;
    judge(world, cycle)?;
    world.fleet.kill(Target::Coordinator, now())?;
    world.pass(POLL_PERIOD)?;
    world.rest()?;
    judge(world, cycle)?;
    let findings = world.look(true)?;
    let took = took.as_secs_f64();
    say(&format!("last rest after {took:.1} s, all records read twice, {}", words(&findings)));
    judge(world, cycle)?;
    Ok(findings)
}

fn judge(world: &mut World, cycle: u64) -> Result<()> {
    for contradiction in &world.contradictions {
        say(&format!("CONTRADICTION: {contradiction}"));
        world.story.tell(&format!("CONTRADICTION: {contradiction}"))?;
    }
    let number = world.contradictions.len();
    ensure!(number == 0, "{number} contradictions in cycle {cycle}; see above");
    Ok(())
}

fn describe(cycle: u64, plan: &Plan) -> String {
    let faults: Vec<String> = plan.faults.iter().map(|(_, fault)| fault.to_string()).collect();
    let trials = |sweep: &Sweep| format!("{} {}", sweep.trials, sweep.kind.word());
    let [any, busy] = &plan.sweeps;
    format!("cycle {cycle:3}: {}, {}; {}", trials(any), trials(busy), faults.join(", "))
}

fn words(findings: &Findings) -> String {
    let Findings { trials, attempts, resumes, .. } = findings;
    format!("{trials} trials in {attempts} attempts with {resumes} resumes hold")
}

/// Whether a fault was tried often and never struck: then it is the chaos that is broken.
fn misses_always(world: &World, kind: &str) -> bool {
    world.counts.get(kind).is_some_and(|count| count.struck == 0 && count.missed >= MISSES_MAX)
}

fn summarise(world: &World, findings: &Findings, cycles: u64, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let number = world.submissions.acknowledged().len();
    say("");
    for kind in KINDS {
        let count = world.counts.get(kind).copied().unwrap_or_default();
        let missed = match count.missed {
            0 => String::new(),
            missed => format!("  ({missed} found nothing to strike)"),
        };
        say(&format!("{kind:<24} {:4}{missed}", count.struck));
    }
    say(&format!(
        "{cycles} cycles in {seconds:.0} s: {number} experiments, {}; no contradiction",
        words(findings)
    ));
}

/// Makes folders, disks and wires; nothing is started yet.
fn prepare(folder: &Path, programs: &Path) -> Result<World> {
    for name in ["logs", "recipes", "answers"] {
        let path = folder.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let program = folder.join("recipes").join(PROGRAM_NAME);
    fs::write(&program, PROGRAM).context("cannot write the trials' program")?;
    let programs = programs.canonicalize();
    let programs = programs.context("the folder of the programs is not there")?;
    let brine = programs.join("brine");
    validate(&brine, &folder.join("recipes"))?;
    let ground = Ground { folder: folder.to_owned(), programs, listen: free_address()? };
    // It is there from the start, because a chaos of noops alone writes no line.
    fs::write(ground.ledger(), "").context("cannot write the ledger")?;
    let client = Client {
        brine,
        url: format!("http://{}", ground.listen),
        token_file: ground.token_file(),
        folder: folder.to_owned(),
    };
    let story = Story::begin(folder)?;
    Ok(World::new(Fleet::new(ground, AGENTS)?, client, story))
}

/// A recipe of each kind is valid; otherwise it would be submitted for ever.
fn validate(brine: &Path, recipes: &Path) -> Result<()> {
    for kind in Kind::WEIGHTED {
        let sweep = Sweep { number: 0, kind, trials: 1 };
        fs::write(recipes.join(sweep.file_name()), sweep.recipe()).context("cannot write")?;
        let mut command = Command::new(brine);
        let output = command.arg("validate").arg(sweep.file_name()).current_dir(recipes).output();
        let output = output.with_context(|| format!("cannot start {}", brine.display()))?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} is not valid: {words}", sweep.file_name());
    }
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    // Two chaoses on one machine begin to look at different places.
    let start = std::process::id() as usize % PORTS.len();
    PORTS
        .cycle()
        .skip(start)
        .take(PORTS.len())
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .context("no port is free for the coordinator")
}

#[expect(clippy::disallowed_methods, reason = "a chaos that was given no seed takes a new one")]
fn new_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |time| time.as_secs())
}
