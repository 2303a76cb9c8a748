//! The log of one attempt, byte for byte.

use crate::client::Client;
use crate::error::CliError;
use crate::explain::Explanation;
use crate::logs::removed::Removed;
use crate::output::Printer;
use proto::{Attempt, AttemptKey};

/// Prints the log of an attempt (`None`: the newest) of a gang's member, and says when there is
/// none, or none any longer.
///
/// # Errors
/// The trial has not had this attempt, or none at all; it has no such member; the coordinator went
/// away.
pub(crate) async fn print(
    client: &mut Client,
    explained: &Explanation,
    attempt: Option<Attempt>,
    rank: u32,
    follow: bool,
    printer: &Printer,
) -> Result<(), CliError> {
    let (id, had) = (explained.id(), explained.trial.attempts);
    if had.0 == 0 {
        let why = match explained.trial.waiting_for.as_str() {
            "" => format!("it is {}", explained.trial.word),
            what => format!("it waits for {what}"),
        };
        return Err(CliError::user(format!("trial {id} has had no attempt yet: {why}"))
            .hint(format!("see why with: brine explain {id}")));
    }
    if let Some(wanted) = attempt.filter(|wanted| *wanted > had) {
        return Err(CliError::user(format!(
            "trial {id} has had no attempt {wanted}; its newest is {had}"
        ))
        .hint(format!("see its attempts with: brine explain {id}")));
    }
    let key = AttemptKey { trial: id.clone(), attempt: attempt.unwrap_or(had), rank };
    // Where no coordinator runs, nothing more is written.
    let follow = follow && client.stored().is_none();
    let mut log = client.logs(&key, follow).await?;
    let (mut is_empty, mut removed) = (true, Removed::default());
    let member = if rank > 0 { format!("rank {rank} of ") } else { String::new() };
    let attempt = key.attempt;
    while let Some(chunk) = log.message().await? {
        is_empty = false;
        if removed.take(&chunk) {
            let why = removed.why();
            printer.status(&format!("the log of {member}attempt {attempt} was removed {why}"));
        }
        printer.bytes(&chunk.text)?;
    }
    if is_empty {
        printer.status(&format!("{member}attempt {attempt} of trial {id} has no log yet"));
        printer.hint(&format!("see where it is with: brine explain {id}"));
    }
    Ok(())
}
