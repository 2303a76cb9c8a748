//! The keeper's loop: one thread that waits for everything and for nothing in particular.

mod voice;

use crate::clock;
use crate::command::{self, Refusal, infrastructure, invalid};
use crate::guard::Guard;
use crate::order::Order;
use crate::order::TrialRecord;
use crate::places::{METRICS_FD, Pipes, Source};
use crate::process;
use crate::program::{Program, not_started};
use crate::say::{Ask, Say};
use crate::stop::StopCause;
use crate::work::Spares;
use agent_core::Moment;
use proto::{AttemptKey, Runner};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventFlags};
use rustix::io::DupFlags;
use rustix::process::{Pid, Resource, Rlimit};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use voice::{Ears, Voice};

/// Programs at once; as many as an agent has CPU slots.
const PROGRAMS_MAX: usize = 4_096;
/// Descriptors that one program may need here: its pipes, its end, its log.
const DESCRIPTORS_EACH: u64 = 6;
/// Events taken at once.
const EVENTS_MAX: usize = 256;
/// Read of one pipe at a time, so that a flood from one program cannot starve the others.
const BUFFER_BYTES: usize = 64 << 10;
/// How often orphans of living programs are reaped.
const SWEEP_PERIOD_MS: u64 = 5_000;

/// Why the keeper could not begin.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// A person started it.
    #[error("brine-agent-keeper is started by brine-agent, as the leader of its process group")]
    NotFromAgent,
    /// The system refuses what it needs.
    #[error("cannot set up the keeper's process")]
    System(#[from] io::Error),
}

/// Keeps programs until the agent is gone, which ends this process and all of them. Metric pipes
/// get their names in `folder`, which is this keeper's own.
///
/// # Errors
/// The keeper cannot begin, or the system refuses to wait.
pub fn keep(folder: &Path) -> Result<(), KeepError> {
    if rustix::process::getpgrp() != rustix::process::getpid() {
        return Err(KeepError::NotFromAgent);
    }
    process::adopt_orphans()?;
    let mut keeper = Keeper::new(folder.to_owned())?;
    loop {
        keeper.turn()?;
    }
}

struct Place {
    pipes: Pipes,
    program: Option<Program>,
}

struct Keeper {
    epoll: OwnedFd,
    folder: PathBuf,
    guard: Guard,
    ears: Ears,
    voice: Voice,
    /// Whether metrics wait because the agent does not read.
    is_choked: bool,
    spares: Spares,
    places: Vec<Place>,
    free: Vec<usize>,
    living: BTreeMap<AttemptKey, usize>,
    leaders: HashSet<Pid>,
    marks: BTreeSet<u64>,
    next_mark: u64,
    /// Processes started so far, which tells whether anybody else started some.
    births: u64,
    loadavg: File,
    timers: BTreeSet<(Moment, usize)>,
    sweep_at: Moment,
    null: OwnedFd,
    /// Descriptor 3: the metric pipe while a program is started, nothing at other times.
    metrics_fd: OwnedFd,
    /// The limit of open files that programs get, when it is not the keeper's own.
    files: Option<Rlimit>,
    buffer: Vec<u8>,
}

impl Keeper {
    fn new(folder: PathBuf) -> io::Result<Self> {
        let first = OwnedFd::from(File::options().read(true).write(true).open("/dev/null")?);
        let second = rustix::io::fcntl_dupfd_cloexec(&first, METRICS_FD)?;
        // One of the two has the number, unless whoever started the agent left it open; then
        // programs find the number in their environment all the same.
        let (metrics_fd, null) =
            if first.as_raw_fd() == METRICS_FD { (first, second) } else { (second, first) };
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        std::fs::create_dir_all(&folder)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let stdin = rustix::stdio::stdin();
        rustix::io::ioctl_fionbio(stdin, true)?;
        epoll::add(&epoll, stdin, Source::Asks.data(), EventFlags::IN)?;
        Ok(Self {
            voice: Voice::new(&epoll)?,
            epoll,
            guard: Guard::start()?,
            ears: Ears::default(),
            is_choked: false,
            spares: Spares::new(folder.clone()),
            places: Vec::new(),
            free: Vec::new(),
            living: BTreeMap::new(),
            leaders: HashSet::new(),
            marks: BTreeSet::new(),
            // A keeper inside of another one's program must not take its marks for its own.
            next_mark: u64::from(std::process::id()) << 32,
            births: 0,
            loadavg: File::open("/proc/loadavg")?,
            timers: BTreeSet::new(),
            sweep_at: clock::now().plus_ms(SWEEP_PERIOD_MS),
            null,
            metrics_fd,
            files: raise_files()?,
            folder,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut space = [MaybeUninit::<Event>::uninit(); EVENTS_MAX];
        let (events, _) = match epoll::wait(&self.epoll, &mut space[..], Some(&self.pause())) {
            Ok(found) => found,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in &*events {
            match Source::parse(event.data) {
                Source::Asks => self.hear()?,
                Source::Room => {}
                Source::Output(place) => self.read_output(place),
                Source::Metrics(place) => self.read_metrics(place),
                Source::End(place) => self.ended(place),
            }
        }
        let now = clock::now();
        while let Some(&(at, place)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.with(place, Program::timer_passed);
        }
        if self.sweep_at <= now {
            self.sweep_at = now.plus_ms(SWEEP_PERIOD_MS);
            self.sweep();
        }
        self.voice.flush(&self.epoll)?;
        self.choke()
    }

    fn pause(&self) -> Timespec {
        let next = self.timers.first().map_or(self.sweep_at, |(at, _)| self.sweep_at.min(*at));
        let left = next.since_ms(clock::now()).min(SWEEP_PERIOD_MS);
        let seconds = i64::try_from(left / 1_000).unwrap_or(0);
        // Rounded up, so that the deadline has passed when the wait is over.
        let nanoseconds = i64::try_from(left % 1_000).unwrap_or(0) * 1_000_000;
        Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
    }

    /// Does what the agent asks.
    fn hear(&mut self) -> io::Result<()> {
        self.ears.fill(&mut self.buffer)?;
        while let Some(ask) = self.ears.next()? {
            match ask {
                Ask::Start(order) => self.start(order),
                Ask::Lease(key, until) => self.guard.renew(&key, until),
                Ask::Stop(key) => {
                    if let Some(&place) = self.living.get(&key) {
                        self.with(place, |program| program.stop(StopCause::Asked));
                    }
                }
                Ask::Kill(key) => {
                    if let Some(&place) = self.living.get(&key) {
                        self.with(place, Program::kill);
                    }
                }
            }
        }
        Ok(())
    }

    /// Changes the program in a place, and its timer with it.
    fn with(&mut self, place: usize, change: impl FnOnce(&mut Program)) {
        let program = self.places.get_mut(place).and_then(|place| place.program.as_mut());
        let Some(program) = program else { return };
        if let Some(at) = program.timer {
            self.timers.remove(&(at, place));
        }
        change(program);
        if let Some(at) = program.timer {
            self.timers.insert((at, place));
        }
    }

    fn start(&mut self, mut order: Box<Order>) {
        let command = match self.prepare(&mut order) {
            Ok(prepared) => prepared,
            Err(refusal) => return self.refuse(&order, refusal),
        };
        let (place, command) = command;
        let (key, until) = (order.key.clone(), order.lease_until);
        self.next_mark += 1;
        let started = Program::start(order, command, self.next_mark, self.files);
        // The next program must not find this one's pipe, and the pipe must not be held here.
        if let Err(error) = rustix::io::dup3(&self.null, &mut self.metrics_fd, DupFlags::CLOEXEC) {
            tracing::error!(%error, "the metric descriptor was not given back");
        }
        let mut program = match started {
            Ok(program) => program,
            Err((order, error)) => {
                self.free.push(place);
                let refusal = command::refused_by_system(&order.spec.runner, &error);
                return self.refuse(&order, refusal);
            }
        };
        self.births += 1;
        program.births = self.births;
        if let Err(error) =
            epoll::add(&self.epoll, program.end(), Source::End(place).data(), EventFlags::IN)
        {
            tracing::error!(%error, attempt = %key, "a program's end cannot be awaited");
            program.kill();
        }
        self.guard.add(key.clone(), program.leader, until);
        self.leaders.insert(program.leader);
        self.marks.insert(program.mark);
        if let Some(at) = program.timer {
            self.timers.insert((at, place));
        }
        self.living.insert(key.clone(), place);
        if let Some(place) = self.places.get_mut(place) {
            place.program = Some(program);
        }
        self.voice.say(&Say::Said(key, TrialRecord::Started));
    }

    fn refuse(&mut self, order: &Order, refusal: Refusal) {
        let said = not_started(order, &mut self.spares, refusal);
        self.voice.say(&said);
    }

    /// The place for a program and how it is called.
    fn prepare(&mut self, order: &mut Order) -> Result<(usize, Command), Refusal> {
        let Runner::Command(spec) = &order.spec.runner else {
            return Err(invalid("the keeper runs commands only".into()));
        };
        let spec = spec.clone();
        if self.living.contains_key(&order.key) {
            return Err(invalid(format!("{} runs already", order.key)));
        }
        if !order.is_prepared {
            self.spares.give(order)?;
            order.is_prepared = true;
        }
        let number = self.place()?;
        let Some(place) = self.places.get(number) else {
            return Err(invalid("there is no such place".into()));
        };
        let called =
            command::command(&spec, order, place.pipes.path(), self.metrics_fd.as_raw_fd());
        let streams = called.and_then(|mut command| {
            let piped = |error| infrastructure("cannot use the pipe", place.pipes.path(), &error);
            let (output, metrics) = place.pipes.ends().map_err(piped)?;
            let errors = output.try_clone().map_err(piped)?;
            let input = self.null.try_clone().map_err(piped)?;
            rustix::io::dup2(metrics, &mut self.metrics_fd).map_err(|error| piped(error.into()))?;
            command.stdin(Stdio::from(input)).stdout(output).stderr(errors);
            Ok(command)
        });
        match streams {
            Ok(command) => Ok((number, command)),
            Err(refusal) => {
                self.free.push(number);
                Err(refusal)
            }
        }
    }

    fn place(&mut self) -> Result<usize, Refusal> {
        if let Some(free) = self.free.pop() {
            return Ok(free);
        }
        let number = self.places.len();
        let pipes = if number < PROGRAMS_MAX {
            Pipes::open(&self.epoll, &self.folder, number)
        } else {
            Err(io::Error::other(format!("{PROGRAMS_MAX} programs run already")))
        };
        let pipes =
            pipes.map_err(|error| infrastructure("cannot make pipes in", &self.folder, &error))?;
        self.places.push(Place { pipes, program: None });
        Ok(number)
    }

    fn read_output(&mut self, place: usize) {
        let Some(Place { pipes, program }) = self.places.get_mut(place) else { return };
        if let (Some(program), Some(bytes)) = (program, pipes.read_output(&mut self.buffer)) {
            program.output(bytes, |said| self.voice.say(&said));
        }
    }

    fn read_metrics(&mut self, place: usize) {
        let Some(Place { pipes, program }) = self.places.get_mut(place) else { return };
        if let (Some(program), Some(bytes)) = (program, pipes.read_metrics(&mut self.buffer)) {
            program.metrics(bytes, |said| self.voice.say(&said));
        }
    }

    /// A program has ended: nothing of it may be left when the agent hears so.
    fn ended(&mut self, number: usize) {
        let Some(Place { pipes, program }) = self.places.get_mut(number) else { return };
        // An event may be about the program that was here before.
        if !program.as_ref().is_some_and(Program::has_ended) {
            return;
        }
        let Some(mut program) = program.take() else { return };
        let expired = self.guard.remove(program.key());
        let status = program.reap();
        self.leaders.remove(&program.leader);
        self.marks.remove(&program.mark);
        self.living.remove(program.key());
        if let Some(at) = program.timer {
            self.timers.remove(&(at, number));
        }
        // Without other processes since its start it cannot have left any.
        let own = self.births - program.births;
        let made = process::last_made(&self.loadavg) - program.leader.as_raw_nonzero().get();
        if i64::from(made) != i64::try_from(own).unwrap_or(-1) {
            process::kill_leftovers(&self.leaders, |mark| self.marks.contains(&mark));
        }
        let say = |said: Say| self.voice.say(&said);
        program.finish(status, expired, pipes, &mut self.spares, &mut self.buffer, say);
        self.free.push(number);
    }

    fn sweep(&self) {
        if !self.living.is_empty() {
            process::kill_leftovers(&self.leaders, |mark| self.marks.contains(&mark));
        }
    }

    /// Stops reading metrics while the agent does not read, and goes on when it does.
    fn choke(&mut self) -> io::Result<()> {
        let is_choked = self.voice.is_full();
        if is_choked == self.is_choked {
            return Ok(());
        }
        self.is_choked = is_choked;
        for (number, place) in self.places.iter().enumerate() {
            place.pipes.listen(&self.epoll, number, !is_choked)?;
        }
        Ok(())
    }
}

/// Raises the limit of open files to what many programs need; answers the old one, which programs
/// keep, because some cannot work with high numbers.
fn raise_files() -> io::Result<Option<Rlimit>> {
    let old = rustix::process::getrlimit(Resource::Nofile);
    let needed = PROGRAMS_MAX as u64 * DESCRIPTORS_EACH;
    let wanted = old.maximum.map_or(needed, |maximum| maximum.min(needed));
    if old.current.is_none_or(|current| current >= wanted) {
        return Ok(None);
    }
    let limits = Rlimit { current: Some(wanted), maximum: old.maximum };
    rustix::process::setrlimit(Resource::Nofile, limits)?;
    Ok(Some(old))
}
