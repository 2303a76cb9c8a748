//! The terminal of `brine top`. The only file that knows ratatui.

use super::frame::{Line, Tone};
use crate::error::CliError;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Drawn, Text};
use ratatui::widgets::Paragraph;
use ratatui::{DefaultTerminal, Frame};
use std::io::IsTerminal as _;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest time until the thread that reads keys notices that nobody wants them.
const KEYS_POLL: Duration = Duration::from_millis(200);
/// Keys that wait at most; a person presses few.
const KEYS_WAITING_MAX: usize = 16;

/// What the person at the terminal wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// `q`, Escape or Ctrl-C, or the terminal is gone.
    End,
    /// The terminal has another size.
    Redraw,
}

/// The whole terminal, given back when this is dropped or the program panics.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    wishes: mpsc::Receiver<Wish>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// stdout is none, or it refuses.
    pub(super) fn open() -> Result<Self, CliError> {
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            return Err(CliError::user("`brine top` needs a terminal")
                .hint("print one frame with: brine top --once"));
        }
        // Also sets a hook that gives the terminal back before a panic is printed.
        let terminal = ratatui::try_init().map_err(failed)?;
        let (sender, wishes) = mpsc::channel(KEYS_WAITING_MAX);
        // Reading a key blocks, and tokio has no terminal; the thread ends with the receiver.
        std::thread::spawn(move || read_keys(&sender));
        Ok(Self { terminal, wishes })
    }

    /// Draws the lines that `lines` makes for a width and a height in characters. Only what changed
    /// since the last call is sent to the terminal.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn show(
        &mut self,
        lines: impl FnOnce(usize, usize) -> Vec<Line>,
    ) -> Result<(), CliError> {
        let draw = |frame: &mut Frame<'_>| {
            let area = frame.area();
            let lines = lines(usize::from(area.width), usize::from(area.height));
            let text: Text<'_> = lines.into_iter().map(drawn).collect();
            frame.render_widget(Paragraph::new(text), area);
        };
        self.terminal.draw(draw).map_err(failed)?;
        Ok(())
    }

    /// Waits for the next wish.
    pub(super) async fn wish(&mut self) -> Wish {
        self.wishes.recv().await.unwrap_or(Wish::End)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn failed(error: std::io::Error) -> CliError {
    CliError::user("the terminal cannot be used").because(error)
}

fn read_keys(wishes: &mpsc::Sender<Wish>) {
    while !wishes.is_closed() {
        let wish = match event::poll(KEYS_POLL) {
            Ok(false) => None,
            Ok(true) => event::read().map_or(Some(Wish::End), |event| wish_of(&event)),
            Err(_gone) => Some(Wish::End),
        };
        if let Some(wish) = wish
            && (wishes.blocking_send(wish).is_err() || wish == Wish::End)
        {
            return;
        }
    }
}

fn wish_of(event: &Event) -> Option<Wish> {
    match event {
        Event::Key(KeyEvent { kind: KeyEventKind::Release, .. }) => None,
        Event::Key(key) => {
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            let ends = key.code == KeyCode::Char('q')
                || key.code == KeyCode::Esc
                || (control && key.code == KeyCode::Char('c'));
            ends.then_some(Wish::End)
        }
        Event::Resize(..) => Some(Wish::Redraw),
        Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_) => None,
    }
}

fn drawn(line: Line) -> Drawn<'static> {
    // NO_COLOR forbids colours, not weight.
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let style = match line.tone {
        Tone::Plain => Style::new(),
        Tone::Head => Style::new().add_modifier(Modifier::BOLD),
        Tone::Faint => Style::new().add_modifier(Modifier::DIM),
        Tone::Alarm if colour => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Alarm => Style::new().add_modifier(Modifier::BOLD),
    };
    Drawn::styled(line.text, style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_end_it_and_other_keys_do_not() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        let (none, control) = (KeyModifiers::NONE, KeyModifiers::CONTROL);
        for (event, wish) in [
            (key(KeyCode::Char('q'), none), Some(Wish::End)),
            (key(KeyCode::Esc, none), Some(Wish::End)),
            (key(KeyCode::Char('c'), control), Some(Wish::End)),
            (key(KeyCode::Char('c'), none), None),
            (key(KeyCode::Enter, none), None),
            (Event::Resize(80, 24), Some(Wish::Redraw)),
            (Event::FocusLost, None),
        ] {
            assert_eq!(wish_of(&event), wish, "{event:?}");
        }
    }
}
