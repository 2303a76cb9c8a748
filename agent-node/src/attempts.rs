//! The attempts that live, and how each of them hears what the agent wants.

use crate::supervisor::{Life, Wish};
use agent_core::{Input, Moment, TrialEnd};
use agent_keeper::say::Ask;
use proto::{AttemptKey, Outcome};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, watch};

/// Attempts that were started and have not exited.
#[derive(Debug)]
pub(crate) struct Attempts {
    listeners: BTreeMap<AttemptKey, Listener>,
    keeper: mpsc::Sender<Ask>,
}

#[derive(Debug)]
enum Listener {
    /// A future of the agent: a training, or a program whose files are being fetched.
    Supervisor(watch::Sender<Wish>),
    /// The keeper.
    Keeper,
}

/// The keeper is too far behind for another request.
#[derive(Debug, thiserror::Error)]
#[error("the keeper of programs is too far behind")]
pub(crate) struct KeeperBehind;

impl Attempts {
    pub(crate) fn new(keeper: mpsc::Sender<Ask>) -> Self {
        Self { listeners: BTreeMap::new(), keeper }
    }

    /// A supervisor has the attempt; it hears through what this answers.
    pub(crate) fn supervised(
        &mut self,
        key: AttemptKey,
        lease_until: Moment,
    ) -> watch::Receiver<Wish> {
        let (sender, wish) = watch::channel(Wish { lease_until, life: Life::GoOn });
        self.listeners.insert(key, Listener::Supervisor(sender));
        wish
    }

    /// The wish that a supervisor listens to; `None` when none has the attempt.
    pub(crate) fn wish(&self, key: &AttemptKey) -> Option<watch::Receiver<Wish>> {
        match self.listeners.get(key)? {
            Listener::Supervisor(sender) => Some(sender.subscribe()),
            Listener::Keeper => None,
        }
    }

    /// Gives the attempt to the keeper.
    ///
    /// # Errors
    /// The keeper is too far behind.
    pub(crate) fn keeper(&mut self, key: AttemptKey, start: Ask) -> Result<(), KeeperBehind> {
        self.keeper.try_send(start).map_err(|_| KeeperBehind)?;
        self.listeners.insert(key, Listener::Keeper);
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &AttemptKey) {
        self.listeners.remove(key);
    }

    pub(crate) fn renew(&self, key: AttemptKey, lease_until: Moment) {
        let ask = Ask::Lease(key.clone(), lease_until);
        self.tell(&key, ask, |wish| wish.lease_until = lease_until);
    }

    pub(crate) fn stop(&self, key: AttemptKey) {
        self.tell(&key, Ask::Stop(key.clone()), |wish| wish.life = Life::Stop);
    }

    pub(crate) fn kill(&self, key: AttemptKey) {
        self.tell(&key, Ask::Kill(key.clone()), |wish| wish.life = Life::Kill);
    }

    fn tell(&self, key: &AttemptKey, ask: Ask, change: impl FnOnce(&mut Wish)) {
        match self.listeners.get(key) {
            Some(Listener::Supervisor(sender)) => sender.send_modify(change),
            Some(Listener::Keeper) => {
                let told = self.keeper.try_send(ask).map_err(|_| KeeperBehind);
                // The keeper ends it by itself at its lease's end.
                told.unwrap_or_else(|error| tracing::error!(attempt = %key, %error, "not told"));
            }
            // An attempt that just ended has nobody to tell; its exit is on the way.
            None => {}
        }
    }
}

/// The end of an attempt that needs no process.
pub(crate) fn completed_at_once(key: AttemptKey) -> Input {
    let outcome = Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None };
    let end = Some(TrialEnd::Outcome(outcome));
    Input::Exited { key, end, how: "needs no process".into() }
}
