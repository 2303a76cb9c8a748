//! The core as a table of facts. After every input the laws in [`Lab::check_laws`] are checked.

use super::*;
use crate::messages::{Gang, Lease};
use proto::spec::Hang;
use proto::{Attempt, Checkpoint, CommandSpec, Resources, Retries, Runner, TrialId, TrialSpec};

mod gpus;
mod laws;
mod line;

const TTL_MS: u64 = 10_000;

#[test]
fn a_lease_is_started_reported_and_settled() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0)]).expect(&[start("a", 1, TTL_MS)]);
    assert_eq!(lab.report().running, [(key("a", 1), false)]);
    lab.put(Input::Started(key("a", 1))).expect(&[]);
    assert!(lab.core.report_is_due());
    assert_eq!(lab.report().running, [(key("a", 1), true)]);
    lab.exit("a", 1, completed()).expect(&[]);
    let report = lab.report();
    assert_eq!(report.ended, [(key("a", 1), completed())]);
    assert!(report.running.is_empty());
    lab.reply(report.sequence, &[])
        .expect(&[Effect::Settled { key: key("a", 1), outcome: completed() }]);
    assert!(lab.core.attempts.is_empty());
}

#[test]
fn an_outcome_is_repeated_until_a_reply_to_a_report_that_said_it() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0)]);
    let before = lab.report().sequence;
    lab.exit("a", 1, completed());
    lab.report();
    lab.reply(before, &[]).expect(&[]);
    assert_eq!(lab.report().ended.len(), 1, "the reply was to an older report");
    lab.put(Input::Disconnected);
    lab.connect();
    assert_eq!(lab.report().ended.len(), 1, "a new session hears it again");
    lab.reply(1, &[]).expect(&[Effect::Settled { key: key("a", 1), outcome: completed() }]);
}

#[test]
fn messages_that_come_twice_or_late_change_nothing() {
    let mut lab = Lab::connected();
    lab.assign(2, &[lease("a", 1, 0)]).expect(&[start("a", 1, TTL_MS)]);
    lab.assign(2, &[]).expect(&[]);
    lab.assign(1, &[]).expect(&[]);
    lab.assign(3, &[lease("a", 1, 0)]).expect(&[]);
    let sequence = lab.report().sequence;
    lab.at(100).reply(sequence + 7, &[]).expect(&[]);
    lab.exit("a", 1, completed());
    lab.exit("a", 1, Outcome::failed(FailureClass::Trial, "x"));
    let report = lab.report();
    assert_eq!(report.ended, [(key("a", 1), completed())], "the first outcome counts");
    lab.reply(report.sequence, &[]);
    lab.reply(report.sequence, &[]).expect(&[]);
    lab.assign(4, &[lease("a", 1, 0)]).expect(&[]);
    assert!(lab.core.attempts.is_empty(), "a settled attempt is not started again");
}

#[test]
fn a_reply_renews_from_the_time_its_report_was_sent() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0)]);
    lab.at(4_000);
    let sequence = lab.report().sequence;
    lab.at(9_000).reply(sequence, &[]).expect(&[renew("a", 1, 4_000 + TTL_MS)]);
    lab.at(13_999).put(Input::Tick).expect(&[]);
    lab.at(14_000).put(Input::Tick).expect(&[Effect::Kill(key("a", 1))]);
}

#[test]
fn a_lease_without_contact_is_killed_and_said_so_later() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0)]);
    lab.put(Input::Disconnected);
    assert_eq!(lab.core.next_deadline(), Some(Moment(TTL_MS)));
    lab.at(TTL_MS).put(Input::Tick).expect(&[Effect::Kill(key("a", 1))]);
    lab.put(Input::Tick).expect(&[]);
    lab.put(exited("a", 1, None)).expect(&[]);
    lab.connect();
    let report = lab.report();
    let [(_, Outcome::Failed { class, message })] = &report.ended[..] else { panic!("{report:?}") };
    assert_eq!(*class, FailureClass::Cancelled, "it costs no retry");
    assert!(message.contains("lost contact"), "{message}");
    lab.reply(report.sequence, &[key("a", 1)]).expect(&[]);
    assert!(lab.core.attempts.is_empty(), "refused, so forgotten");
}

#[test]
fn what_the_assignment_lacks_is_asked_to_stop_and_killed_after_its_grace() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0)]);
    lab.assign(2, &[]).expect(&[Effect::Stop(key("a", 1))]);
    assert_eq!(lab.report().running.len(), 1, "it is held until its process is gone");
    // Refused attempts keep their grace, but not beyond the lease that nobody renews.
    let mut kills = Vec::new();
    for at in (0..KILL_AFTER_MS).step_by(1_000) {
        lab.at(at);
        let sequence = lab.report().sequence;
        lab.reply(sequence, &[key("a", 1)]);
        kills.extend(lab.effects.drain(..).map(|effect| (at, effect)));
    }
    assert_eq!(kills, [(TTL_MS, Effect::Kill(key("a", 1)))]);
    lab.put(exited("a", 1, None)).expect(&[]);
    assert!(lab.core.attempts.is_empty(), "nobody awaits an unwanted attempt's outcome");
}

#[test]
fn a_lease_waits_until_its_devices_and_its_trial_are_free() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0), lease("b", 1, 1)])
        .expect(&[start("a", 1, TTL_MS), start("b", 1, TTL_MS)]);
    lab.assign(2, &[lease("a", 2, 2), lease("b", 1, 1), lease("c", 1, 0)])
        .expect(&[Effect::Stop(key("a", 1))]);
    lab.put(exited("a", 1, None)).expect(&[start("a", 2, TTL_MS), start("c", 1, TTL_MS)]);
}

#[test]
fn a_specification_that_is_not_understood_is_reported_as_invalid() {
    let mut lab = Lab::connected();
    let unreadable = vec![(key("a", 1), "unknown field".into())];
    lab.put(Input::Assignment(Assignment { version: 1, unreadable, ..Assignment::default() }))
        .expect(&[]);
    let expected = Outcome::failed(FailureClass::Invalid, "unknown field");
    assert_eq!(lab.report().ended, [(key("a", 1), expected)]);
}

#[test]
fn only_the_newest_checkpoint_is_reported_until_it_is_settled() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0)]);
    for step in [10, 20] {
        lab.put(Input::Saved(key("a", 1), checkpoint(step)));
    }
    let report = lab.report();
    assert_eq!(report.checkpoints, [(key("a", 1), checkpoint(20))]);
    lab.put(Input::Saved(key("a", 1), checkpoint(30)));
    lab.reply(report.sequence, &[]);
    let report = lab.report();
    assert_eq!(report.checkpoints, [(key("a", 1), checkpoint(30))]);
    lab.reply(report.sequence, &[]);
    assert!(lab.report().checkpoints.is_empty());
}

#[test]
fn a_shutdown_stops_trials_reports_them_and_takes_no_more() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0), lease("b", 1, 1)]);
    lab.put(Input::Shutdown).expect(&[Effect::Stop(key("a", 1)), Effect::Stop(key("b", 1))]);
    assert!(lab.core.report_is_due() && lab.report().leaving);
    lab.assign(2, &[lease("a", 1, 0), lease("b", 1, 1), lease("c", 1, 2)]).expect(&[]);
    lab.exit("a", 1, completed());
    lab.put(exited("b", 1, Some(TrialEnd::Stopped)));
    assert!(!lab.core.holds_processes());
    let report = lab.report();
    assert_eq!(report.ended[0], (key("a", 1), completed()), "it was faster than the stop");
    assert!(matches!(&report.ended[1].1, Outcome::Failed { class: FailureClass::Cancelled, .. }));
}

#[test]
fn a_process_that_dies_silently_is_an_infrastructure_failure_with_its_cause() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0)]);
    lab.put(exited("a", 1, None));
    let [(_, Outcome::Failed { class, message })] = &lab.report().ended[..] else {
        panic!("not a failure")
    };
    assert_eq!(*class, FailureClass::Infrastructure);
    assert!(message.contains("was killed by signal 9"), "{message}");
}

#[test]
fn what_was_killed_is_not_blamed_for_it_but_may_have_been_faster() {
    for (said, blamed) in
        [(Outcome::failed(FailureClass::Trial, "killed by signal 9"), false), (completed(), true)]
    {
        let mut lab = Lab::connected();
        lab.assign(1, &[lease("a", 1, 0)]);
        lab.at(TTL_MS).put(Input::Tick).expect(&[Effect::Kill(key("a", 1))]);
        lab.exit("a", 1, said.clone());
        assert_eq!(lab.report().ended[0].1 == said, blamed, "{said:?}");
    }
}

#[test]
fn an_agent_takes_leave_only_when_the_coordinator_knows() {
    let mut lab = Lab::connected();
    let before = lab.report().sequence;
    lab.put(Input::Shutdown);
    lab.reply(before, &[]);
    assert!(!lab.core.has_taken_leave());
    let sequence = lab.report().sequence;
    lab.reply(sequence, &[]);
    assert!(lab.core.has_taken_leave());
}

#[test]
fn a_change_of_a_version_that_never_came_is_ignored() {
    let mut lab = Lab::connected();
    let change = |version, base, leases: &[Lease], dropped: &[AttemptKey]| {
        let (leases, dropped) = (leases.to_vec(), dropped.to_vec());
        Input::Assignment(Assignment { version, base, leases, dropped, ..Assignment::default() })
    };
    lab.put(change(3, 2, &[lease("a", 1, 0)], &[])).expect(&[]);
    lab.assign(2, &[lease("a", 1, 0)]).expect(&[start("a", 1, TTL_MS)]);
    lab.put(change(3, 2, &[lease("b", 1, 1)], &[])).expect(&[start("b", 1, TTL_MS)]);
    // Based on 2 although the agent knows 3: what both say again changes nothing.
    lab.put(change(4, 2, &[lease("b", 1, 1)], &[key("a", 1)])).expect(&[Effect::Stop(key("a", 1))]);
    lab.put(change(3, 2, &[lease("a", 1, 0)], &[])).expect(&[]);
    assert_eq!(lab.report().assignment_version, 4);
}

#[test]
fn a_preempted_attempt_saves_its_state_and_is_given_back() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0)]);
    let wanted = Lease { preempted: true, ..lease("a", 1, 0) };
    lab.assign(2, std::slice::from_ref(&wanted)).expect(&[Effect::Stop(key("a", 1))]);
    lab.assign(3, &[wanted]).expect(&[]);
    lab.put(exited("a", 1, Some(TrialEnd::Stopped)));
    let report = lab.report();
    let [(_, Outcome::Failed { class: FailureClass::Cancelled, message })] = &report.ended[..]
    else {
        panic!("{report:?}")
    };
    assert!(message.contains("higher priority"), "{message}");
}

#[test]
fn a_trial_that_falls_silent_is_told_and_ended_where_its_recipe_says_so() {
    for retry in [false, true] {
        let mut lab = Lab::connected();
        let mut lease = lease("a", 1, 0);
        lease.spec.hang = Some(Hang { steps: 5, at_least_ms: 3_000, retry });
        lab.assign(1, &[lease]);
        lab.put(Input::Started(key("a", 1)));
        for step in 0..=10 {
            let metric = "loss".to_owned();
            lab.at(step * 100).put(Input::Metric { key: key("a", 1), metric, step, value: 1.0 });
        }
        lab.at(3_999).put(Input::Tick).expect(&[]);
        let stopped = [Effect::Stop(key("a", 1))];
        lab.at(4_000).put(Input::Tick).expect(if retry { &stopped } else { &[] });
        assert!(lab.core.report_is_due());
        let report = lab.report();
        let (told, notice) = &report.notices[0];
        assert_eq!((told, notice.kind), (&key("a", 1), proto::NoticeKind::Hang));
        lab.reply(report.sequence, &[]);
        assert_eq!(lab.report().notices, [], "told once");
        lab.put(Input::Exited { key: key("a", 1), end: Some(TrialEnd::Stopped), how: "x".into() });
        let report = lab.report();
        let Outcome::Failed { class, message } = &report.ended[0].1 else { panic!("{report:?}") };
        assert_eq!(*class, FailureClass::Infrastructure);
        assert_eq!(message.contains("made no step"), retry, "{message}");
    }
}

#[test]
fn a_standstill_of_the_agent_is_nobodys_silence() {
    let mut lab = Lab::connected();
    let mut lease = lease("a", 1, 0);
    lease.spec.hang = Some(Hang { steps: 5, at_least_ms: 3_000, retry: true });
    lab.assign(1, &[lease]);
    for step in 0..=10 {
        let metric = "loss".to_owned();
        lab.at(step * 100).put(Input::Metric { key: key("a", 1), metric, step, value: 1.0 });
    }
    let sequence = lab.report().sequence;
    // Longer than a term: this process was frozen, and its lease with it.
    lab.at(1_000 + TTL_MS).reply(sequence, &[]);
    lab.at(1_001 + TTL_MS).put(Input::Tick);
    assert!(lab.report().notices.is_empty());
}

#[test]
fn members_of_a_gang_run_beside_each_other_on_one_agent() {
    let mut lab = Lab::connected();
    let member = |rank: u32| Lease {
        key: AttemptKey { rank, ..key("a", 1) },
        gang: Some(Gang { world_size: 2, master_addr: "h".into(), master_port: 29_500 }),
        ..lease("a", 1, rank)
    };
    lab.assign(1, &[member(0), member(1)]);
    assert_eq!(lab.effects.len(), 2, "{:?}", lab.effects);
}

#[test]
fn a_shared_gpu_is_filled_and_not_beyond() {
    let mut lab = Lab::connected();
    let share = |trial, cpu, milli| Lease {
        devices: Devices { cpus: vec![cpu], gpus: vec![0], gpu_share_milli: milli },
        ..lease(trial, 1, cpu)
    };
    lab.assign(1, &[share("a", 0, 600), share("b", 1, 500), share("c", 2, 400)]);
    let started = lab.effects.iter().map(|effect| {
        let Effect::Start { lease, .. } = effect else { panic!("{effect:?}") };
        lease.key.trial.as_str()
    });
    assert_eq!(started.collect::<Vec<_>>(), ["a".repeat(16), "c".repeat(16)]);
}

struct Lab {
    core: Core,
    now: Moment,
    effects: Vec<Effect>,
    /// Attempts whose process the effects have started and that have not exited.
    processes: BTreeMap<AttemptKey, Devices>,
    started_once: BTreeSet<AttemptKey>,
    /// Of the coordinator.
    heeds_withdrawn: bool,
}

impl Lab {
    fn connected() -> Self {
        let mut lab = Self {
            core: Core::default(),
            now: Moment(0),
            effects: Vec::new(),
            processes: BTreeMap::new(),
            started_once: BTreeSet::new(),
            heeds_withdrawn: true,
        };
        lab.connect();
        lab
    }

    fn connect(&mut self) -> &mut Self {
        self.started_once.clear();
        let (hello_sent, heeds_withdrawn) = (self.now, self.heeds_withdrawn);
        self.put(Input::Connected { hello_sent, lease_ttl_ms: TTL_MS, heeds_withdrawn })
    }

    fn at(&mut self, now_ms: u64) -> &mut Self {
        self.now = Moment(now_ms);
        self
    }

    fn put(&mut self, input: Input) -> &mut Self {
        if let Input::Exited { key, .. } = &input {
            self.processes.remove(key);
        }
        self.effects = self.core.handle(self.now, input);
        self.check_laws();
        self
    }

    fn assign(&mut self, version: u64, leases: &[Lease]) -> &mut Self {
        let leases = leases.to_vec();
        self.put(Input::Assignment(Assignment { version, leases, ..Assignment::default() }))
    }

    fn reply(&mut self, sequence: u64, refused: &[AttemptKey]) -> &mut Self {
        self.put(Input::Reply { sequence, refused: refused.to_vec() })
    }

    fn exit(&mut self, trial: &str, attempt: u32, outcome: Outcome) -> &mut Self {
        self.put(exited(trial, attempt, Some(TrialEnd::Outcome(outcome))))
    }

    fn report(&mut self) -> Report {
        self.core.report(self.now)
    }

    #[track_caller]
    fn expect(&mut self, expected: &[Effect]) {
        assert_eq!(self.effects, expected);
    }

    #[track_caller]
    fn check_laws(&mut self) {
        for effect in &self.effects {
            match effect {
                Effect::Start { lease, lease_until } => {
                    assert!(*lease_until > self.now, "started without a lease");
                    let free = |(key, devices): (&AttemptKey, &Devices)| {
                        let same =
                            (&key.trial, key.attempt) == (&lease.key.trial, lease.key.attempt);
                        (same || key.trial != lease.key.trial)
                            && !devices.cpus.iter().any(|cpu| lease.devices.cpus.contains(cpu))
                    };
                    assert!(self.processes.iter().all(free), "two processes share something");
                    assert!(self.started_once.insert(lease.key.clone()), "started twice");
                    let heeds = self.heeds_withdrawn;
                    let is_lost = |gpu| heeds && self.core.withdrawn().contains_key(gpu);
                    assert!(!lease.devices.gpus.iter().any(is_lost), "started on a lost GPU");
                    self.processes.insert(lease.key.clone(), lease.devices.clone());
                }
                Effect::Renew { key, .. } | Effect::Stop(key) | Effect::Kill(key) => {
                    assert!(self.processes.contains_key(key), "{effect:?} without a process");
                }
                Effect::Settled { key, .. } => {
                    assert!(!self.processes.contains_key(key), "settled with a process");
                }
                Effect::Withdrawn { gpu, reason } => {
                    assert_eq!(self.core.withdrawn().get(gpu), Some(reason));
                }
            }
        }
        assert_eq!(self.core.holds_processes(), !self.processes.is_empty());
        let deadline = self.core.next_deadline();
        assert!(deadline.is_none_or(|deadline| deadline > self.now), "a deadline was missed");
        let exact = self.core.attempts.values().filter_map(Held::deadline).min();
        let is_not_late = exact.is_none_or(|exact| deadline.is_some_and(|at| at <= exact));
        assert!(is_not_late, "{deadline:?} is later than {exact:?}");
    }
}

fn key(trial: &str, attempt: u32) -> AttemptKey {
    let trial = TrialId::new(trial.repeat(16)).unwrap();
    AttemptKey { trial, attempt: Attempt(attempt), rank: 0 }
}

fn lease(trial: &str, attempt: u32, cpu: u32) -> Lease {
    let spec = TrialSpec {
        runner: Runner::Command(CommandSpec {
            arguments: vec!["true".into()],
            environment: BTreeMap::new(),
            working_folder: None,
            files: BTreeMap::new(),
        }),
        parameters: BTreeMap::new(),
        seed: 1,
        resources: Resources::default(),
        retries: Retries::default(),
        time_limit_ms: None,
        checkpoint_every_ms: Some(1_000),
        placement: proto::Placement::default(),
        hang: None,
    };
    let devices = Devices { cpus: vec![cpu], ..Devices::default() };
    Lease {
        key: key(trial, attempt),
        spec,
        devices,
        checkpoint: None,
        preempted: false,
        recalled: false,
        gang: None,
        mtbf_ms: 0,
    }
}

fn start(trial: &str, attempt: u32, lease_until_ms: u64) -> Effect {
    let cpu = match (trial, attempt) {
        ("a", 2) => 2,
        ("b", _) => 1,
        _ => 0,
    };
    let lease = Box::new(lease(trial, attempt, cpu));
    Effect::Start { lease, lease_until: Moment(lease_until_ms) }
}

fn renew(trial: &str, attempt: u32, lease_until_ms: u64) -> Effect {
    Effect::Renew { key: key(trial, attempt), lease_until: Moment(lease_until_ms) }
}

fn exited(trial: &str, attempt: u32, end: Option<TrialEnd>) -> Input {
    Input::Exited { key: key(trial, attempt), end, how: "was killed by signal 9".into() }
}

fn completed() -> Outcome {
    Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None }
}

fn checkpoint(step: u64) -> Checkpoint {
    Checkpoint {
        step,
        attempt: Attempt(1),
        agent: proto::AgentId::new("a").unwrap(),
        folder: "/x".into(),
        files: Vec::new(),
    }
}
