//! What happened when, for whoever has to find out why.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

/// The file `story.txt`, which grows by a line for everything that is done to a program.
#[derive(Debug)]
pub(crate) struct Story {
    file: File,
    begun: Instant,
}

impl Story {
    /// Begins the story of the chaos in `folder`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn begin(folder: &Path) -> Result<Self> {
        let path = folder.join("story.txt");
        let file = File::create(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file, begun: now() })
    }

    /// Adds a line, with the time since the beginning in seconds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn tell(&mut self, words: &str) -> Result<()> {
        let seconds = self.begun.elapsed().as_secs_f64();
        writeln!(self.file, "{seconds:9.3} {words}").context("cannot write story.txt")
    }
}

#[expect(clippy::disallowed_methods, reason = "chaos happens in real time, to real processes")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
