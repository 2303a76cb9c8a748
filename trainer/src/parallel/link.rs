//! A connection to one other member: frames both ways, each way on a thread of its own, so that
//! two members who send to each other never wait for each other, and an end is noticed at once.

use super::ParallelError;
use proto::Outcome;
use rustix::net::sockopt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A machine that says nothing for so long is asked whether it is there, and is gone if it does
/// not answer in as much again. Long against a lost packet, short against people's patience. A
/// process that computes for hours is not silent in this sense: its system answers.
const SILENCE: Duration = Duration::from_secs(15);
/// Questions before it counts as gone.
const QUESTIONS: u32 = 3;
/// Frames that wait each way. A member is never more than two exchanges ahead of another; a state
/// that is handed out is a handful of frames.
const FRAMES_MAX: usize = 4;
/// Longest text of a failure: an outcome's longest message, each byte written as six.
const FAILURE_BYTES_MAX: u64 = 16 << 10;
const HEADER_BYTES: usize = 1 + 8 + 8;
const DATA: u8 = 1;
const FAILURE: u8 = 2;

/// What one member tells another.
#[derive(Debug)]
struct Frame {
    kind: u8,
    /// Which exchange it belongs to.
    exchange: u64,
    content: Arc<Vec<u8>>,
}

/// What is done when a connection breaks while it is needed.
pub(super) type OnLoss = Arc<dyn Fn() + Send + Sync>;

/// A connection to one other member.
pub(super) struct Link {
    rank: u32,
    stream: TcpStream,
    /// `None` when it is closing.
    outbox: Option<SyncSender<Frame>>,
    inbox: Receiver<io::Result<Frame>>,
    writer: Option<JoinHandle<()>>,
    closing: Arc<AtomicBool>,
}

impl Link {
    /// Takes over a connection to `rank`, whose frames hold at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The system refuses to watch the connection, or a thread.
    pub(super) fn new(
        rank: u32,
        stream: TcpStream,
        bytes_max: u64,
        on_loss: OnLoss,
    ) -> Result<Self, ParallelError> {
        let lost = |source| ParallelError::Lost { rank, source };
        watch(&stream).map_err(lost)?;
        let closing = Arc::new(AtomicBool::new(false));
        let (outbox, orders) = sync_channel(FRAMES_MAX);
        let (sender, inbox) = sync_channel(FRAMES_MAX);
        let mut reading = stream.try_clone().map_err(lost)?;
        let is_closing = Arc::clone(&closing);
        let reader = std::thread::Builder::new().name(format!("from rank {rank}"));
        let read = move || {
            loop {
                let frame = receive(&mut reading, bytes_max);
                let is_last = frame.is_err();
                if is_last && !is_closing.load(Ordering::Acquire) {
                    on_loss();
                }
                if sender.send(frame).is_err() || is_last {
                    break;
                }
            }
        };
        drop(reader.spawn(read).map_err(lost)?);
        let mut writing = stream.try_clone().map_err(lost)?;
        let writer = std::thread::Builder::new().name(format!("to rank {rank}"));
        let write = move || {
            for frame in orders {
                if send(&mut writing, &frame).is_err() {
                    break; // The reader finds out why.
                }
            }
        };
        let writer = Some(writer.spawn(write).map_err(lost)?);
        Ok(Self { rank, stream, outbox: Some(outbox), inbox, writer, closing })
    }

    /// Sends `content`, of exchange number `exchange`.
    pub(super) fn send(&self, exchange: u64, content: Arc<Vec<u8>>) {
        self.put(Frame { kind: DATA, exchange, content });
    }

    /// Tells that this member failed. A connection that is broken needs no telling.
    pub(super) fn tell_failure(&self, outcome: &Outcome) {
        if let Ok(content) = serde_json::to_vec(outcome) {
            self.put(Frame { kind: FAILURE, exchange: 0, content: Arc::new(content) });
        }
    }

    fn put(&self, frame: Frame) {
        // It fails only where the connection broke, which `receive` reports.
        if let Some(outbox) = &self.outbox {
            drop(outbox.send(frame));
        }
    }

    /// What the other sends in exchange number `exchange`; waits for it as long as the other lives.
    ///
    /// # Errors
    /// The other is gone, failed, or is somewhere else.
    pub(super) fn receive(&self, exchange: u64) -> Result<Vec<u8>, ParallelError> {
        let rank = self.rank;
        let frame = self.data(self.inbox.recv().unwrap_or_else(|_| Err(no_more())))?;
        if frame.exchange != exchange {
            let words = |number| format!("exchange {number}");
            let (found, wanted) = (words(frame.exchange), words(exchange));
            return Err(ParallelError::out_of_step(rank, found, wanted));
        }
        Ok(Arc::unwrap_or_clone(frame.content))
    }

    /// How the other ended, if it has; what it sent before is of no use any more.
    pub(super) fn end(&self) -> Option<ParallelError> {
        loop {
            let came = match self.inbox.try_recv() {
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => Err(no_more()),
                Ok(came) => came,
            };
            if let Err(end) = self.data(came) {
                return Some(end);
            }
        }
    }

    /// What came, if it is no end.
    fn data(&self, came: io::Result<Frame>) -> Result<Frame, ParallelError> {
        let rank = self.rank;
        let frame = came.map_err(|source| ParallelError::Lost { rank, source })?;
        match frame.kind {
            FAILURE => Err(failure(rank, &frame.content)),
            _ => Ok(frame),
        }
    }
}

/// The reader has ended, and its last word was heard.
fn no_more() -> io::Error {
    ErrorKind::BrokenPipe.into()
}

impl Drop for Link {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.outbox = None;
        // What was sent last arrives before the end. A machine that is gone does not hold this up
        // for longer than it takes to notice.
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

/// Has the system notice when the other machine is gone, also while nothing is said.
fn watch(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, SILENCE / QUESTIONS)?;
    sockopt::set_tcp_keepcnt(stream, QUESTIONS)?;
    // Questions are not asked while something is on its way; this is about that.
    let unanswered = u32::try_from((2 * SILENCE).as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, unanswered)?;
    Ok(())
}

fn send(stream: &mut TcpStream, frame: &Frame) -> io::Result<()> {
    let mut header = [0; HEADER_BYTES];
    header[0] = frame.kind;
    header[1..9].copy_from_slice(&frame.exchange.to_le_bytes());
    header[9..].copy_from_slice(&(frame.content.len() as u64).to_le_bytes());
    stream.write_all(&header)?;
    stream.write_all(&frame.content)
}

fn receive(stream: &mut TcpStream, bytes_max: u64) -> io::Result<Frame> {
    let mut kind = [0];
    let (mut exchange, mut length) = ([0; 8], [0; 8]);
    stream.read_exact(&mut kind)?;
    stream.read_exact(&mut exchange)?;
    stream.read_exact(&mut length)?;
    let ([kind], length) = (kind, u64::from_le_bytes(length));
    let most = if kind == DATA { bytes_max } else { FAILURE_BYTES_MAX };
    if length > most || ![DATA, FAILURE].contains(&kind) {
        let message = format!("a frame of kind {kind} with {length} bytes, at most {most} allowed");
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    let mut content = Vec::new();
    content.try_reserve_exact(length as usize).map_err(io::Error::other)?;
    content.resize(length as usize, 0);
    stream.read_exact(&mut content)?;
    Ok(Frame { kind, exchange: u64::from_le_bytes(exchange), content: Arc::new(content) })
}

fn failure(rank: u32, content: &[u8]) -> ParallelError {
    match serde_json::from_slice(content) {
        Ok(Outcome::Failed { class, message }) => ParallelError::Failed { rank, class, message },
        Ok(Outcome::Completed { .. } | Outcome::Diverged { .. }) | Err(_) => {
            ParallelError::out_of_step(rank, "an unreadable failure", "a failure")
        }
    }
}
