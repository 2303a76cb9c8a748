//! Batches made on a thread of their own, while the step before computes.

use super::{Share, Text};
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

/// Batches that wait. One would do if steps and reads always took the same time.
const BATCHES_MAX: usize = 2;

/// Share number `share` of `shares` of the batches of `steps`, in order. The thread ends with them,
/// or when the receiver is dropped.
pub(crate) fn batches<'scope>(
    scope: &'scope Scope<'scope, '_>,
    text: &'scope Text,
    steps: Range<u64>,
    sequences: u32,
    (share, shares): (u32, u32),
) -> Receiver<Share> {
    let (sender, receiver) = sync_channel(BATCHES_MAX);
    scope.spawn(move || {
        for step in steps {
            if sender.send(text.share(step, sequences, share, shares)).is_err() {
                break; // The training ended early.
            }
        }
    });
    receiver
}
