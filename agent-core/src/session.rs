//! What an agent remembers of its session with the coordinator.

use crate::clock::Moment;
use proto::AttemptKey;
use std::collections::{BTreeSet, VecDeque};

/// Attempts that are remembered in a session after they were settled or given back, so that a late
/// assignment cannot start one again. Assignments are settled in order, so a few would do.
const SETTLED_MAX: usize = 4_096;

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) lease_ttl_ms: u64,
    pub(crate) heeds_withdrawn: bool,
    pub(crate) sequence: u64,
    pub(crate) sent: VecDeque<(u64, Moment)>,
    /// When the newest message was sent that the coordinator answered.
    pub(crate) confirmed: Moment,
    pub(crate) assignment_version: Option<u64>,
    pub(crate) settled: BTreeSet<AttemptKey>,
    /// The same, oldest first.
    settled_order: VecDeque<AttemptKey>,
    /// First report that said that the agent ends, and whether the coordinator heard it.
    pub(crate) leaving_since: Option<u64>,
    pub(crate) leaving_heard: bool,
}

impl Session {
    /// A session whose hello was sent at `hello_sent`.
    pub(crate) fn new(hello_sent: Moment, lease_ttl_ms: u64, heeds_withdrawn: bool) -> Self {
        Self {
            lease_ttl_ms,
            heeds_withdrawn,
            sequence: 0,
            sent: VecDeque::new(),
            confirmed: hello_sent,
            assignment_version: None,
            settled: BTreeSet::new(),
            settled_order: VecDeque::new(),
            leaving_since: None,
            leaving_heard: false,
        }
    }

    /// An attempt that is settled or was given back.
    pub(crate) fn remember(&mut self, key: AttemptKey) {
        self.settled_order.push_back(key.clone());
        self.settled.insert(key);
        if self.settled_order.len() > SETTLED_MAX
            && let Some(oldest) = self.settled_order.pop_front()
        {
            self.settled.remove(&oldest);
        }
    }
}
