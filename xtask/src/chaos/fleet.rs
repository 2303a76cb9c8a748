//! The programs that are tormented, and the watch over them: what is killed or gives up is started
//! again, as an init system would.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};

use super::disk::{Disk, Means, surviving_limits};
use super::plan::Target;
use super::processes;
use super::proxy::Proxy;
use super::story::Story;

/// CPU slots of an agent.
pub(crate) const CPUS: u64 = 2;
/// Pause before a program that ended by itself is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// A program may end because its disk was full until this long after there is room again.
const TROUBLED_MAX: Duration = Duration::from_secs(10);
/// The exit code of a program that cannot go on for a reason outside of it.
const GAVE_UP: i32 = 1;

/// Which programs to start, and with what.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The chaos's folder.
    pub(crate) folder: PathBuf,
    /// Folder with `brine` and `brine-agent`.
    pub(crate) programs: PathBuf,
    /// Where the coordinator listens, the same in every life.
    pub(crate) listen: SocketAddr,
}

impl Ground {
    /// The file to which the trials' programs append.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.folder.join("ledger.txt")
    }

    /// The coordinator's token.
    pub(crate) fn token_file(&self) -> PathBuf {
        self.disk(Target::Coordinator).join("data").join("token")
    }

    fn disk(&self, target: Target) -> PathBuf {
        self.folder.join(target.to_string())
    }
}

/// One program over all its lives.
#[derive(Debug)]
struct Member {
    target: Target,
    disk: Disk,
    /// When its disk had room again after it was full.
    room_since: Option<Instant>,
    process: Option<Child>,
    /// Whether the process that lives now was killed and is not reaped yet.
    killed: bool,
    life: u64,
    back_at: Option<Instant>,
}

/// The coordinator and its agents.
#[derive(Debug)]
pub(crate) struct Fleet {
    ground: Ground,
    proxies: Vec<Proxy>,
    members: BTreeMap<Target, Member>,
    /// Lives of agents that are over, with their end.
    ended: BTreeMap<String, Instant>,
}

impl Fleet {
    /// Makes a disk for each program; nothing is started yet.
    ///
    /// # Errors
    /// A disk cannot be made, or no port is free.
    pub(crate) fn new(ground: Ground, agents: usize) -> Result<Self> {
        let targets = std::iter::once(Target::Coordinator).chain((0..agents).map(Target::Agent));
        let member = |target| {
            let disk = Disk::make(ground.disk(target))?;
            let (room_since, process, back_at) = (None, None, None);
            let killed = false;
            let member = Member { target, disk, room_since, process, killed, life: 0, back_at };
            Ok((target, member))
        };
        let members = targets.map(member).collect::<Result<_>>()?;
        let proxies = (0..agents).map(|_| Proxy::start(ground.listen)).collect::<Result<_>>()?;
        Ok(Self { ground, proxies, members, ended: BTreeMap::new() })
    }

    /// What the programs are started with.
    pub(crate) fn ground(&self) -> &Ground {
        &self.ground
    }

    /// How disks are made full here.
    pub(crate) fn means(&self) -> Option<Means> {
        self.members.values().next().map(|member| member.disk.means())
    }

    /// The wire of an agent.
    pub(crate) fn proxy(&self, agent: usize) -> Option<&Proxy> {
        self.proxies.get(agent)
    }

    /// When that life of an agent ended, if it did.
    pub(crate) fn ended(&self, life: &str) -> Option<Instant> {
        self.ended.get(life).copied()
    }

    /// Whether every program lives.
    pub(crate) fn is_whole(&self) -> bool {
        self.members.values().all(|member| member.process.is_some() && !member.killed)
    }

    /// The process of a program that lives.
    pub(crate) fn pid(&self, target: Target) -> Option<Pid> {
        let member = self.members.get(&target).filter(|member| !member.killed)?;
        member.process.as_ref().map(Pid::from_child)
    }

    /// Starts a program for the first time.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(&mut self, target: Target, story: &mut Story) -> Result<()> {
        let Some(member) = self.members.get_mut(&target) else {
            return Ok(());
        };
        member.life += 1;
        member.back_at = None;
        let path = self.ground.folder.join("logs").join(format!("{target}.log"));
        let log = File::options().append(true).create(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        let errors = log.try_clone().context("cannot share a log")?;
        let data = member.disk.folder.join("data");
        let checkpoints = self.ground.disk(Target::Agent(0)).join("checkpoints");
        let means = member.disk.means();
        let mut command = match target {
            Target::Coordinator => {
                let mut command = program(&self.ground.programs.join("brine"), means);
                command.arg("coordinator");
                command.args(["--listen", &self.ground.listen.to_string()]);
                command
            }
            Target::Agent(number) => {
                let address = self.proxies.get(number).context("an agent without a wire")?;
                let url = format!("http://{}", address.address());
                let mut command = program(&self.ground.programs.join("brine-agent"), means);
                command.args(["--coordinator", &url, "--id", &target.to_string()]);
                command.args(["--cpus", &CPUS.to_string(), "--gpus", "none", "--token-file"]);
                // One folder for all agents, as on a machine or a shared disk: whoever has the
                // trial next goes on from it.
                command.arg(self.ground.token_file()).arg("--checkpoints").arg(checkpoints);
                command.env(processes::LIFE, life_name(target, member.life));
                command
            }
        };
        command
            .arg("--data-dir")
            .arg(data)
            .current_dir(&self.ground.folder)
            .env(processes::MARK, &self.ground.folder)
            .env("BRINE_CHAOS_LEDGER", self.ground.ledger())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let process = command.spawn().with_context(|| format!("cannot start the {target}"))?;
        let pid = Pid::from_child(&process);
        member.process = Some(process);
        member.disk.apply_to(Some(pid))?;
        story.tell(&format!("{target} started, life {}, {pid:?}", member.life))
    }

    /// kill -9; whether there was anything to kill.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn kill(&mut self, target: Target, back_at: Instant) -> Result<bool> {
        let Some(member) = self.members.get_mut(&target).filter(|member| !member.killed) else {
            return Ok(false);
        };
        let Some(process) = member.process.as_mut() else {
            return Ok(false);
        };
        process.kill().with_context(|| format!("cannot kill the {target}"))?;
        member.killed = true;
        member.back_at = Some(back_at);
        Ok(true)
    }

    /// Sends a signal to that process of the program, if it still lives.
    pub(crate) fn signal(&self, target: Target, pid: Pid, signal: Signal) -> bool {
        self.pid(target) == Some(pid) && processes::signal(pid, signal)
    }

    /// Fills a disk; false when it is full already.
    ///
    /// # Errors
    /// It cannot be filled.
    pub(crate) fn fill(&mut self, target: Target) -> Result<bool> {
        let pid = self.pid(target);
        match self.members.get_mut(&target).filter(|member| !member.disk.is_full()) {
            None => Ok(false),
            Some(member) => member.disk.fill(pid).map(|()| true),
        }
    }

    /// Makes room on a disk.
    ///
    /// # Errors
    /// There is no room to be had.
    pub(crate) fn free(&mut self, target: Target, now: Instant) -> Result<()> {
        let all = processes::of(&self.ground.folder);
        let Some(member) = self.members.get_mut(&target) else {
            return Ok(());
        };
        let life = life_name(target, member.life);
        let own = member.process.as_ref().map(Pid::from_child);
        let family = all.iter().filter(|process| process.life() == Some(&life));
        let family: Vec<Pid> = family.map(|process| process.pid).chain(own).collect();
        member.room_since = Some(now);
        member.disk.free(&family)
    }

    /// Takes note of programs that ended and starts those whose time has come. Says what ended for
    /// no reason.
    ///
    /// # Errors
    /// A program cannot be waited for, or not be started again.
    pub(crate) fn supervise(&mut self, now: Instant, story: &mut Story) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let mut due = Vec::new();
        for member in self.members.values_mut() {
            let Member { target, process, .. } = member;
            let target = *target;
            let ended = match process {
                Some(process) => process.try_wait().context("cannot wait for a program")?,
                None => None,
            };
            if let Some(status) = ended {
                member.process = None;
                self.ended.insert(life_name(target, member.life), now);
                story.tell(&format!("{target} ended: {status}"))?;
                if !std::mem::take(&mut member.killed) {
                    member.back_at = Some(now + RESTART_PAUSE);
                    if !member.may_end(status, now) {
                        wrong.push(format!("the {target} ended by itself: {status}"));
                    }
                }
            }
            let is_due = member.back_at.is_some_and(|back_at| back_at <= now);
            if member.process.is_none() && is_due {
                due.push(target);
            }
        }
        due.into_iter().try_for_each(|target| self.start(target, story))?;
        Ok(wrong)
    }
}

impl Member {
    /// A program may give up when its disk is full: it must not acknowledge what it cannot write.
    fn may_end(&self, status: ExitStatus, now: Instant) -> bool {
        let was_full = self.room_since.is_some_and(|since| now < since + TROUBLED_MAX);
        status.code() == Some(GAVE_UP) && (self.disk.is_full() || was_full)
    }
}

fn program(path: &Path, means: Means) -> Command {
    match means {
        Means::SmallDisk => Command::new(path),
        Means::FileSizes => surviving_limits(path),
    }
}

fn life_name(target: Target, life: u64) -> String {
    format!("{target}.{life}")
}
