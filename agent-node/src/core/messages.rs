//! What goes into the core and what comes out of it.

use crate::clock::Moment;
use crate::order::{AttemptKey, TrialEnd};
use proto::{Checkpoint, Devices, Outcome, TrialSpec};

/// What an agent may run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lease {
    /// Which attempt.
    pub(crate) key: AttemptKey,
    /// What to do.
    pub(crate) spec: TrialSpec,
    /// Where.
    pub(crate) devices: Devices,
    /// The last checkpoint that the coordinator knows.
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Input {
    /// The coordinator welcomed a session whose hello was sent at `hello_sent`.
    Connected { hello_sent: Moment, lease_ttl_ms: u64 },
    /// The session is gone. Leases keep their deadlines.
    Disconnected,
    /// The complete set of leases. `unreadable` are those whose specification this agent does not
    /// understand, with the reason.
    Assignment { version: u64, leases: Vec<Lease>, unreadable: Vec<(AttemptKey, String)> },
    /// What the report of this number said is durable, except about the refused attempts.
    Reply { sequence: u64, refused: Vec<AttemptKey> },
    /// The attempt's process has begun its work.
    Started(AttemptKey),
    /// The attempt's checkpoint is on disk and recorded there.
    Saved(AttemptKey, Checkpoint),
    /// The attempt's process and all its descendants are gone. `end` is its last record, `how` says
    /// how the process ended, for people.
    Exited { key: AttemptKey, end: Option<TrialEnd>, how: String },
    /// Somebody asked the agent to end: trials save their state and stop.
    Shutdown,
    /// Time passed. Comes at least at every
    /// [`Core::next_deadline`](super::Core::next_deadline); may come late.
    Tick,
}

/// What the driver must do now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Start the attempt's process. It answers with [`Input::Exited`], sooner or later.
    Start { lease: Box<Lease>, lease_until: Moment },
    /// Tell the process that its lease holds until then.
    Renew { key: AttemptKey, lease_until: Moment },
    /// Ask the process to save its state and end.
    Stop(AttemptKey),
    /// Kill the process and its descendants.
    Kill(AttemptKey),
    /// The coordinator has this outcome; the trial's old checkpoints may go.
    Settled { key: AttemptKey, outcome: Outcome },
}

/// The whole truth of an agent, as the next report says it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Report {
    /// From 1 in each session.
    pub(crate) sequence: u64,
    /// Every attempt that the agent holds, and whether its process has begun.
    pub(crate) running: Vec<(AttemptKey, bool)>,
    /// Attempts that ended and are not settled.
    pub(crate) ended: Vec<(AttemptKey, Outcome)>,
    /// Newest checkpoint of each attempt, while not settled.
    pub(crate) checkpoints: Vec<(AttemptKey, Checkpoint)>,
    /// Newest assignment of the session that was followed; 0 before the first.
    pub(crate) assignment_version: u64,
    /// Whether the agent ends and takes no further leases.
    pub(crate) leaving: bool,
}
