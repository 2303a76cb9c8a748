use super::*;
use proto::{Attempt, Outcome, TrialId};

const TRIAL: &str = "0123456789abcdef";

#[test]
fn an_assignment_is_read_with_gangs_shares_and_what_was_dropped() {
    let gang = wire::Gang { rank: 2, world_size: 4, master_addr: "h".into(), master_port: 29_500 };
    let said = wire::Assignment {
        version: 7,
        base: 5,
        leases: vec![
            wire::Lease { gang: Some(gang), preempted: true, mtbf_ms: 77, ..lease() },
            wire::Lease { gpus: vec![3], gpu_share_milli: 250, ..lease() },
        ],
        dropped: vec![wire::AttemptRef { trial: TRIAL.into(), attempt: 1, rank: 1 }],
    };
    let said = wire::CoordinatorMessage { message: Some(In::Assignment(said)) };
    let Ok(Some(Input::Assignment(assignment))) = parse(said) else { panic!("not an assignment") };
    assert_eq!((assignment.version, assignment.base), (7, 5));
    assert_eq!(assignment.dropped, [key(1, 1)]);
    let [member, share] = &assignment.leases[..] else { panic!("{assignment:?}") };
    assert_eq!((&member.key, member.preempted, member.mtbf_ms), (&key(2, 2), true, 77));
    let expected = Gang { world_size: 4, master_addr: "h".into(), master_port: 29_500 };
    assert_eq!(member.gang, Some(expected));
    assert_eq!((&share.key, share.devices.gpu_share_milli), (&key(2, 0), 250));
}

#[test]
fn a_lease_that_makes_no_sense_is_unreadable_and_named() {
    let gang = |rank, world_size, master_port| {
        Some(wire::Gang { rank, world_size, master_addr: "h".into(), master_port })
    };
    for (lease, words) in [
        (wire::Lease { spec_json: "{".into(), ..lease() }, "does not understand"),
        (wire::Lease { checkpoint_json: "{".into(), ..lease() }, "does not understand"),
        (wire::Lease { gang: gang(4, 4, 1), ..lease() }, "not below the gang's size"),
        (wire::Lease { gang: gang(0, 4, 70_000), ..lease() }, "not a port"),
        (wire::Lease { gpus: vec![1, 2], gpu_share_milli: 5, ..lease() }, "share is of one GPU"),
        (wire::Lease { gpus: vec![1], gpu_share_milli: 1_001, ..lease() }, "share is of one GPU"),
    ] {
        let set = wire::Assignment { version: 1, leases: vec![lease], ..Default::default() };
        let parsed = parse_set(set).unwrap();
        let [(key, reason)] = &parsed.unreadable[..] else { panic!("{parsed:?}") };
        assert_eq!(key.attempt, Attempt(2));
        assert!(reason.contains(words), "{reason}");
    }
}

#[test]
fn a_report_names_the_rank_everywhere() {
    let agent = proto::AgentId::new("a").unwrap();
    let checkpoint =
        Checkpoint { step: 1, attempt: Attempt(2), agent, folder: "/x".into(), files: Vec::new() };
    let report = Report {
        running: vec![(key(2, 1), true)],
        ended: vec![(key(2, 2), Outcome::failed(proto::FailureClass::Trial, "x"))],
        checkpoints: vec![(key(2, 3), checkpoint)],
        ..Report::default()
    };
    let message = report_message(report).unwrap().message;
    let Some(Out::Report(report)) = message else { panic!("{message:?}") };
    let ranks = (report.running[0].rank, report.ended[0].rank, report.checkpoints[0].rank);
    assert_eq!(ranks, (1, 2, 3));
}

#[test]
fn a_report_names_the_gpus_that_are_withdrawn() {
    let report = Report { withdrawn: [(3, "lost".to_owned())].into(), ..Report::default() };
    let message = report_message(report).unwrap().message;
    let Some(Out::Report(report)) = message else { panic!("{message:?}") };
    assert_eq!(report.withdrawn, [wire::WithdrawnGpu { index: 3, reason: "lost".into() }]);
}

#[test]
fn a_namesake_is_waited_for_and_a_refusal_is_final() {
    let waits = refusal(Status::already_exists("heard 2 s ago"));
    let Ending::Lost { hindrance: Hindrance::Namesake, why, welcomed: false } = waits else {
        panic!("not a namesake")
    };
    assert_eq!(why, "heard 2 s ago");
    assert!(matches!(refusal(Status::unauthenticated("x")), Ending::Fatal(_)));
    let network = refusal(Status::unavailable("x"));
    assert!(matches!(network, Ending::Lost { hindrance: Hindrance::Network, .. }));
}

fn key(attempt: u32, rank: u32) -> AttemptKey {
    AttemptKey { trial: TrialId::new(TRIAL).unwrap(), attempt: Attempt(attempt), rank }
}

fn lease() -> wire::Lease {
    let spec = TrialSpec {
        runner: proto::Runner::Noop,
        parameters: std::collections::BTreeMap::new(),
        seed: 7,
        resources: proto::Resources::default(),
        retries: proto::Retries::default(),
        time_limit_ms: None,
        checkpoint_every_ms: Some(1_000),
        hang: None,
        placement: proto::Placement::default(),
    };
    wire::Lease {
        trial: TRIAL.into(),
        attempt: 2,
        spec_json: serde_json::to_string(&spec).unwrap(),
        ..Default::default()
    }
}
