//! The pipes through which a program speaks. A place is used by one program after the other: what
//! one leaves in it is read before the next one comes.

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{CWD, Mode, OFlags};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The descriptor at which programs find the metric pipe.
pub(crate) const METRICS_FD: i32 = 3;

/// What an event of the loop is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The agent said something.
    Asks,
    /// The agent reads again.
    Room,
    /// The program in a place printed.
    Output(usize),
    /// It reported.
    Metrics(usize),
    /// It ended.
    End(usize),
}

impl Source {
    const KINDS: u64 = 5;

    /// As epoll carries it.
    pub(crate) fn data(self) -> EventData {
        let (kind, place) = match self {
            Self::Asks => (0, 0),
            Self::Room => (1, 0),
            Self::Output(place) => (2, place),
            Self::Metrics(place) => (3, place),
            Self::End(place) => (4, place),
        };
        EventData::new_u64(place as u64 * Self::KINDS + kind)
    }

    pub(crate) fn parse(data: EventData) -> Self {
        let number = data.u64();
        let place = usize::try_from(number / Self::KINDS).unwrap_or(usize::MAX);
        match number % Self::KINDS {
            0 => Self::Asks,
            1 => Self::Room,
            2 => Self::Output(place),
            3 => Self::Metrics(place),
            _ => Self::End(place),
        }
    }
}

/// The pipes of one place.
#[derive(Debug)]
pub(crate) struct Pipes {
    output: File,
    output_end: File,
    metrics: File,
    metrics_end: File,
    path: PathBuf,
}

impl Pipes {
    /// Makes the pipes of place `number`; the metric pipe has a name in `folder`, so that
    /// `brine-agent report` works also where the descriptor was closed on the way, as Python's
    /// `subprocess` does.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn open(epoll: &OwnedFd, folder: &Path, number: usize) -> io::Result<Self> {
        let path = folder.join(format!("metrics.{number}"));
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let metrics = File::options().read(true).custom_flags(flags).open(&path)?;
        let metrics_end = File::options().write(true).open(&path)?;
        let (output, output_end) = io::pipe()?;
        let output = File::from(OwnedFd::from(output));
        rustix::io::ioctl_fionbio(&output, true)?;
        let output_end = File::from(OwnedFd::from(output_end));
        epoll::add(epoll, &output, Source::Output(number).data(), EventFlags::IN)?;
        epoll::add(epoll, &metrics, Source::Metrics(number).data(), EventFlags::IN)?;
        Ok(Self { output, output_end, metrics, metrics_end, path })
    }

    /// The metric pipe as a file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The end of the output pipe for a program, and that of the metric pipe. A program may have
    /// made them non-blocking, which the next one must not find.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn ends(&self) -> io::Result<(OwnedFd, &File)> {
        rustix::io::ioctl_fionbio(&self.output_end, false)?;
        rustix::io::ioctl_fionbio(&self.metrics_end, false)?;
        Ok((self.output_end.try_clone()?.into(), &self.metrics_end))
    }

    /// Reads some output; `None` when there is none now.
    pub(crate) fn read_output<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        read(&self.output, buffer)
    }

    /// Reads some metrics; `None` when there are none now.
    pub(crate) fn read_metrics<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        read(&self.metrics, buffer)
    }

    /// Whether metrics wake the loop.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn listen(&self, epoll: &OwnedFd, number: usize, wanted: bool) -> io::Result<()> {
        let flags = if wanted { EventFlags::IN } else { EventFlags::empty() };
        Ok(epoll::modify(epoll, &self.metrics, Source::Metrics(number).data(), flags)?)
    }
}

fn read<'a>(mut pipe: &File, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    match pipe.read(buffer) {
        Ok(0) => None,
        Ok(length) => buffer.get(..length),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
        Err(error) => {
            tracing::warn!(%error, "a pipe of a program cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_survives_epoll() {
        for source in
            [Source::Asks, Source::Room, Source::Output(0), Source::Metrics(7), Source::End(4_095)]
        {
            assert_eq!(Source::parse(source.data()), source);
        }
    }
}
