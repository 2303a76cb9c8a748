//! What goes into the core and what comes out of it.

use crate::attempt::TrialEnd;
use crate::clock::Moment;
use proto::{AttemptKey, Checkpoint, Devices, Notice, Outcome, TrialSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an agent may run.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Which attempt.
    pub key: AttemptKey,
    /// What to do.
    pub spec: TrialSpec,
    /// Where.
    pub devices: Devices,
    /// The last checkpoint that the coordinator knows.
    pub checkpoint: Option<Checkpoint>,
    /// Save the state and give the attempt back: a trial of higher priority needs its place.
    pub preempted: bool,
    /// Give the attempt back if it still waits for its devices: others may run it sooner.
    pub recalled: bool,
    /// Which part of a gang this is, if it is one.
    pub gang: Option<Gang>,
    /// Mean time to a failure of the infrastructure that ends the attempt; 0 when nobody knows.
    pub mtbf_ms: u64,
}

/// How a member of a gang finds the others, as torch.distributed names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gang {
    /// Members in all.
    pub world_size: u32,
    /// Host of the member of rank 0.
    pub master_addr: String,
    /// Port on that host.
    pub master_port: u16,
}

/// What the coordinator wants this agent to hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Assignment {
    /// Rises with every change.
    pub version: u64,
    /// The version that this one changes; 0 for the complete set.
    pub base: u64,
    /// Leases that were granted or changed.
    pub leases: Vec<Lease>,
    /// Attempts that are no longer leased. Only with a base.
    pub dropped: Vec<AttemptKey>,
    /// Leases whose specification this agent does not understand, with the reason.
    pub unreadable: Vec<(AttemptKey, String)>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The coordinator welcomed a session whose hello was sent at `hello_sent`.
    Connected {
        /// When the hello was sent, on this machine's clock.
        hello_sent: Moment,
        /// How long a lease lives after a report that the coordinator heard was sent.
        lease_ttl_ms: u64,
        /// Whether the coordinator grants nothing on GPUs that are withdrawn. An older one knows
        /// nothing of them, and counts what is given back as a failure.
        heeds_withdrawn: bool,
    },
    /// The session is gone. Leases keep their deadlines.
    Disconnected,
    /// What the coordinator wants.
    Assignment(Assignment),
    /// What the report of this number said is durable, except about the refused attempts.
    Reply {
        /// Number of the report.
        sequence: u64,
        /// Attempts of the report that are not leased to this agent any longer.
        refused: Vec<AttemptKey>,
    },
    /// The attempt's process has begun its work.
    Started(AttemptKey),
    /// The attempt reported a metric.
    Metric {
        /// Which attempt.
        key: AttemptKey,
        /// Name of the metric.
        metric: String,
        /// Step, from 0.
        step: u64,
        /// Value; may be NaN or infinite.
        value: f64,
    },
    /// The attempt's checkpoint is on disk and recorded there.
    Saved(AttemptKey, Checkpoint),
    /// The attempt's process and all its descendants are gone. `end` is its last record, `how` says
    /// how the process ended, for people.
    Exited {
        /// Which attempt.
        key: AttemptKey,
        /// Its last record, if it wrote one.
        end: Option<TrialEnd>,
        /// How the process ended, as the end of "it ...".
        how: String,
    },
    /// A GPU's driver reported an error, by the number that NVIDIA gave it.
    Xid {
        /// Which GPU.
        gpu: u32,
        /// Number of the error.
        number: u64,
    },
    /// Somebody asked the agent to end: trials save their state and stop.
    Shutdown,
    /// Time passed. Comes at least at every
    /// [`Core::next_deadline`](crate::Core::next_deadline); may come late.
    Tick,
}

/// What the driver must do now.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Start the attempt's process. It answers with [`Input::Exited`], sooner or later.
    Start {
        /// What to run.
        lease: Box<Lease>,
        /// The process ends itself then, unless it is renewed.
        lease_until: Moment,
    },
    /// Tell the process that its lease holds until then.
    Renew {
        /// Which attempt.
        key: AttemptKey,
        /// The new end of its lease.
        lease_until: Moment,
    },
    /// Ask the process to save its state and end.
    Stop(AttemptKey),
    /// Kill the process and its descendants.
    Kill(AttemptKey),
    /// The coordinator has this outcome; the trial's old checkpoints may go.
    Settled {
        /// Which attempt.
        key: AttemptKey,
        /// What the coordinator has recorded.
        outcome: Outcome,
    },
    /// A GPU is lost until somebody resets it, and withdrawn until the agent begins anew. Comes
    /// once; the operator should hear of it.
    Withdrawn {
        /// Which GPU.
        gpu: u32,
        /// Why, for people.
        reason: String,
    },
}

/// The whole truth of an agent, as the next report says it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// From 1 in each session.
    pub sequence: u64,
    /// Every attempt that the agent holds, and whether its process has begun.
    pub running: Vec<(AttemptKey, bool)>,
    /// Attempts that ended and are not settled.
    pub ended: Vec<(AttemptKey, Outcome)>,
    /// Newest checkpoint of each attempt, while not settled.
    pub checkpoints: Vec<(AttemptKey, Checkpoint)>,
    /// What was noticed about attempts, while not settled.
    pub notices: Vec<(AttemptKey, Notice)>,
    /// Newest assignment of the session that was followed; 0 before the first.
    pub assignment_version: u64,
    /// Whether the agent ends and takes no further leases.
    pub leaving: bool,
    /// All GPUs that are withdrawn, and why: no further leases there.
    pub withdrawn: BTreeMap<u32, String>,
}
