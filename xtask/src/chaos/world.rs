//! One chaos: the programs, what is about to happen to them, and what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::client::{Client, Errand};
use super::fleet::Fleet;
use super::plan::{Fault, KINDS, Plan, Target};
use super::processes::{self, Process};
use super::story::{Story, now};
use super::submissions::Submissions;
use super::{POLL_PERIOD, rest::Looks};

/// How often it is looked for processes that a dead agent left.
const SCAN_PERIOD: Duration = Duration::from_millis(500);
/// A trial's program may outlive its agent by this much: the process that watches over it notices
/// at once, and this machine may be busy.
const PROGRAM_LEFT_MAX: Duration = Duration::from_secs(2);
/// A trial's process may outlive its agent by this much: it may still be loading its libraries when
/// its agent dies, and notices after that.
const TRIAL_LEFT_MAX: Duration = Duration::from_secs(6);

/// What happens at a moment.
#[derive(Debug)]
enum Change {
    Begin(Fault),
    Thaw { target: Target, pid: Pid },
    Free(Target),
    Mend { agent: usize },
}

/// A glance at the coordinator while everything goes on.
#[derive(Debug)]
struct Glance {
    errand: Errand,
    /// What was acknowledged before it began, and must be seen.
    expected: BTreeSet<String>,
}

/// How often a kind of fault was injected.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    /// It struck.
    pub(crate) struck: u64,
    /// There was nothing to strike: the program was down already, or no trial ran.
    pub(crate) missed: u64,
}

/// One chaos.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) client: Client,
    pub(crate) submissions: Submissions,
    pub(crate) story: Story,
    pub(crate) looks: Looks,
    /// What cannot be true, in words.
    pub(crate) contradictions: Vec<String>,
    pub(crate) counts: BTreeMap<&'static str, Count>,
    agenda: Vec<(Instant, Change)>,
    cut: BTreeSet<usize>,
    glance: Option<Glance>,
    /// Trials that ended, by experiment, as the last glance saw them.
    ended: BTreeMap<String, u64>,
    scanned_at: Instant,
    leftovers: BTreeSet<String>,
}

impl World {
    /// A world in which nothing has happened.
    pub(crate) fn new(fleet: Fleet, client: Client, story: Story) -> Self {
        Self {
            fleet,
            client,
            submissions: Submissions::default(),
            story,
            looks: Looks::default(),
            contradictions: Vec::new(),
            counts: KINDS.iter().map(|kind| (*kind, Count::default())).collect(),
            agenda: Vec::new(),
            cut: BTreeSet::new(),
            glance: None,
            ended: BTreeMap::new(),
            scanned_at: now(),
            leftovers: BTreeSet::new(),
        }
    }

    /// Puts a plan on the agenda and its sweeps into the queue.
    ///
    /// # Errors
    /// A recipe cannot be written.
    pub(crate) fn begin(&mut self, plan: Plan) -> Result<()> {
        let begun = now();
        for (at_ms, fault) in plan.faults {
            self.agenda.push((begun + Duration::from_millis(at_ms), Change::Begin(fault)));
        }
        let mut sweeps = plan.sweeps.into_iter();
        sweeps.try_for_each(|sweep| self.submissions.add(&self.client, sweep, plan.again))
    }

    /// Whether no fault is at work or about to begin.
    pub(crate) fn is_calm(&self) -> bool {
        self.agenda.is_empty() && self.fleet.is_whole()
    }

    /// Lets `time` pass, during which everything happens that is due.
    ///
    /// # Errors
    /// A program cannot be started, or `brine` broke.
    pub(crate) fn pass(&mut self, time: Duration) -> Result<()> {
        let until = now() + time;
        while now() < until {
            self.turn()?;
            thread::sleep(POLL_PERIOD);
        }
        Ok(())
    }

    /// Does everything that is due now.
    ///
    /// # Errors
    /// A program cannot be started, or `brine` broke.
    pub(crate) fn turn(&mut self) -> Result<()> {
        let moment = now();
        let wrong = self.fleet.supervise(moment, &mut self.story)?;
        self.contradictions.extend(wrong);
        self.agenda.sort_by_key(|(at, _)| *at);
        let later = self.agenda.partition_point(|(at, _)| *at <= moment);
        let due: Vec<(Instant, Change)> = self.agenda.drain(..later).collect();
        for (_, change) in due {
            self.change(change, moment)?;
        }
        self.contradictions.extend(self.submissions.turn(&self.client, moment)?);
        self.finish_glance()?;
        if moment >= self.scanned_at + SCAN_PERIOD {
            self.scanned_at = moment;
            self.scan(moment);
        }
        Ok(())
    }

    fn change(&mut self, change: Change, moment: Instant) -> Result<()> {
        match change {
            Change::Begin(fault) => {
                let struck = self.strike(fault, moment)?;
                let count = self.counts.entry(fault.kind()).or_default();
                count.struck += u64::from(struck);
                count.missed += u64::from(!struck);
                let how = if struck { "" } else { " (nothing to strike)" };
                self.story.tell(&format!("{fault}{how}"))
            }
            Change::Thaw { target, pid } => {
                self.fleet.signal(target, pid, Signal::CONT);
                self.story.tell(&format!("{target} goes on"))
            }
            Change::Free(target) => {
                self.fleet.free(target, moment)?;
                self.story.tell(&format!("{target}'s disk has room"))
            }
            Change::Mend { agent } => {
                self.cut.remove(&agent);
                if let Some(proxy) = self.fleet.proxy(agent) {
                    proxy.set(None);
                }
                self.story.tell(&format!("agent-{agent} is connected again"))
            }
        }
    }

    /// Injects a fault and plans its end; whether there was anything to strike.
    fn strike(&mut self, fault: Fault, moment: Instant) -> Result<bool> {
        let end = match fault {
            Fault::Kill { target, down_ms } => {
                return self.fleet.kill(target, moment + Duration::from_millis(down_ms));
            }
            Fault::KillKeeper { pick } => {
                let all = processes::of(&self.client.folder);
                let victims = all.iter().filter(|process| process.is_keeper()).collect();
                return self.kill_one(victims, pick);
            }
            Fault::KillProgram { pick } => {
                let all = processes::of(&self.client.folder);
                return self.kill_one(processes::programs(&all), pick);
            }
            Fault::Freeze { target, .. } => {
                let pid = self.fleet.pid(target);
                match pid.filter(|pid| self.fleet.signal(target, *pid, Signal::STOP)) {
                    None => return Ok(false),
                    Some(pid) => Change::Thaw { target, pid },
                }
            }
            Fault::FillDisk { target, .. } => {
                if !self.fleet.fill(target)? {
                    return Ok(false);
                }
                Change::Free(target)
            }
            Fault::Cut { agent, cut, way, .. } => {
                let Some(proxy) = self.fleet.proxy(agent).filter(|_| self.cut.insert(agent)) else {
                    return Ok(false);
                };
                proxy.set(Some((cut, way)));
                Change::Mend { agent }
            }
        };
        let lasts = Duration::from_millis(fault.lasts_ms().unwrap_or(0));
        self.agenda.push((moment + lasts, end));
        Ok(true)
    }

    fn kill_one(&mut self, victims: Vec<&Process>, pick: u64) -> Result<bool> {
        let place = pick.checked_rem(victims.len() as u64).and_then(|at| usize::try_from(at).ok());
        let Some(victim) = place.and_then(|place| victims.get(place)) else {
            return Ok(false);
        };
        self.story.tell(&format!("kill {}", victim.words()))?;
        Ok(processes::signal(victim.pid, Signal::KILL))
    }

    /// Begins a glance at what the coordinator knows, unless one is under way.
    ///
    /// # Errors
    /// `brine` cannot be started.
    pub(crate) fn glance(&mut self) -> Result<()> {
        if self.glance.is_none() {
            let expected = self.submissions.acknowledged().keys().cloned().collect();
            let errand = self.client.start("glance", &["status"])?;
            self.glance = Some(Glance { errand, expected });
        }
        Ok(())
    }

    fn finish_glance(&mut self) -> Result<()> {
        let Some(mut glance) = self.glance.take() else {
            return Ok(());
        };
        match glance.errand.poll()? {
            None => self.glance = Some(glance),
            // Nobody answered; the next glance may see more.
            Some(answer) if !answer.done => {}
            Some(answer) => {
                let json = serde_json::from_str(&answer.stdout).context("status is no JSON")?;
                self.compare(&json, &glance.expected);
            }
        }
        Ok(())
    }

    /// What was acknowledged is known, and what has ended stays so.
    pub(crate) fn compare(&mut self, status: &Value, expected: &BTreeSet<String>) {
        let experiments = status["experiments"].as_array().map_or(&[][..], Vec::as_slice);
        let ended = experiments.iter().filter_map(|experiment| {
            let id = experiment["experiment"].as_str()?.to_owned();
            Some((id, experiment["ended"].as_u64()?))
        });
        let ended: BTreeMap<String, u64> = ended.collect();
        for id in expected.iter().filter(|id| !ended.contains_key(*id)) {
            self.contradictions.push(format!("{id} was acknowledged and is not known any more"));
        }
        for (id, number) in ended {
            let before = self.ended.insert(id.clone(), number).unwrap_or(0);
            if number < before {
                let words = format!("{id} had {before} ended trials and now has {number}");
                self.contradictions.push(words);
            }
        }
    }

    /// Nothing of an agent outlives it.
    fn scan(&mut self, moment: Instant) {
        for process in processes::of(&self.client.folder) {
            let Some(life) = process.life() else { continue };
            let Some(ended) = self.fleet.ended(life) else { continue };
            let patience =
                if process.attempt().is_some() { PROGRAM_LEFT_MAX } else { TRIAL_LEFT_MAX };
            let words = format!("{} of {life} outlives its agent", process.words());
            if moment > ended + patience && self.leftovers.insert(words.clone()) {
                self.contradictions.push(words);
            }
        }
    }
}
