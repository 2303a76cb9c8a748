//! The log of one attempt, byte for byte.

use crate::client::Client;
use crate::error::CliError;
use crate::explain::Explanation;
use crate::output::Printer;
use proto::Attempt;

/// Prints the log of an attempt (`None`: the newest), and says when there is none.
///
/// # Errors
/// The trial has not had this attempt, or none at all; the coordinator went away.
pub(crate) async fn print(
    client: &mut Client,
    explained: &Explanation,
    attempt: Option<Attempt>,
    follow: bool,
    printer: &Printer,
) -> Result<(), CliError> {
    let (id, had) = (explained.id(), explained.trial.attempts);
    if had.0 == 0 {
        let mut why = explained.trial.waiting_for.clone();
        if why.is_empty() {
            why.clone_from(&explained.trial.word);
        }
        return Err(CliError::user(format!("trial {id} has had no attempt yet: {why}"))
            .hint(format!("see why with: brine explain {id}")));
    }
    if let Some(wanted) = attempt.filter(|wanted| *wanted > had) {
        return Err(CliError::user(format!(
            "trial {id} has had no attempt {wanted}; its newest is {had}"
        ))
        .hint(format!("see its attempts with: brine explain {id}")));
    }
    let mut log = client.logs(id, attempt, follow).await?;
    let mut is_empty = true;
    while let Some(chunk) = log.message().await? {
        is_empty = false;
        printer.bytes(&chunk.text)?;
    }
    if is_empty {
        let attempt = attempt.unwrap_or(had);
        printer.status(&format!("attempt {attempt} of trial {id} has no log yet"));
        printer.hint(&format!("see where it is with: brine explain {id}"));
    }
    Ok(())
}
