//! What the person or program that started the agent wants of it: signals, and the end of its
//! standard input.

use std::io::{self, Read};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Let trials save their state, tell the coordinator, end.
    Shutdown,
    /// Who started the agent let it go: as [`Wanted::Shutdown`] while the coordinator is there to
    /// be told; when it is not, both died together and the agent ends at once.
    StdinEnded,
    /// Kill the trials and end.
    EndNow,
}

/// Listens for the operator: signals, and the end of standard input when asked for.
pub(crate) fn listen(exit_with_stdin: bool) -> io::Result<mpsc::Receiver<Wanted>> {
    let (sender, receiver) = mpsc::channel(4);
    if exit_with_stdin {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut ignored = [0; 256];
            let mut stdin = io::stdin().lock();
            loop {
                match stdin.read(&mut ignored) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            tracing::info!("the standard input ended, so the agent ends");
            if sender.blocking_send(Wanted::StdinEnded).is_err() {
                tracing::debug!("the agent has already ended");
            }
        });
    }
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "lives as long as the process, owns nothing"
        )]
        tokio::spawn(async move {
            // A terminal sends its signal to the agent and to who started it, who then sends the
            // other kind: only the same kind twice means impatience.
            for wanted in [Wanted::Shutdown, Wanted::EndNow] {
                if signals.recv().await.is_none() || sender.send(wanted).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}
