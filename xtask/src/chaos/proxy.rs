//! A wire between one agent and the coordinator that can be cut: a TCP proxy with a switch.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::plan::{Cut, Way};

/// Connections at a time; an agent has few. More are reset, so that threads stay few too.
const CONNECTIONS_MAX: usize = 64;
/// How often a thread that waits for bytes looks at the switch.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// How long a connection to the coordinator may take; it is on this machine.
const CONNECT_MAX: Duration = Duration::from_secs(1);
const BUFFER_BYTES: usize = 64 << 10;

/// The state of the wire; `None` lets everything pass.
#[derive(Debug, Default)]
struct Wire {
    cut: Mutex<Option<(Cut, Way)>>,
    connections: AtomicUsize,
}

/// The proxy of one agent. Its threads end with the process.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    wire: Arc<Wire>,
}

impl Proxy {
    /// Starts a proxy to `coordinator` on a free port.
    ///
    /// # Errors
    /// No port is free.
    pub(crate) fn start(coordinator: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
        let address = listener.local_addr().context("a port without an address")?;
        let wire = Arc::new(Wire::default());
        let shared = Arc::clone(&wire);
        thread::spawn(move || {
            for agent in listener.incoming().flatten() {
                accept(agent, coordinator, &shared);
            }
        });
        Ok(Self { address, wire })
    }

    /// Where the agent finds it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the wire, or mends it.
    pub(crate) fn set(&self, cut: Option<(Cut, Way)>) {
        *self.wire.cut.lock().unwrap_or_else(PoisonError::into_inner) = cut;
    }
}

impl Wire {
    fn now(&self) -> Option<(Cut, Way)> {
        *self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection; both its threads hold it, and it is closed when both have let go.
#[derive(Debug)]
struct Connection {
    agent: TcpStream,
    coordinator: TcpStream,
    /// Set when one direction broke.
    broken: AtomicBool,
    wire: Arc<Wire>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.wire.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

fn accept(agent: TcpStream, coordinator: SocketAddr, wire: &Arc<Wire>) {
    let is_reset = wire.now().is_some_and(|(cut, _)| cut == Cut::Reset);
    if is_reset || wire.connections.load(Ordering::Acquire) >= CONNECTIONS_MAX {
        reset_at_close(&agent);
        return;
    }
    // A coordinator that is down refuses; the agent sees its connection closed.
    let Ok(stream) = TcpStream::connect_timeout(&coordinator, CONNECT_MAX) else {
        return;
    };
    let ready = [&agent, &stream].into_iter().try_for_each(|stream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK_PERIOD))?;
        stream.set_write_timeout(Some(LOOK_PERIOD))
    });
    if ready.is_err() {
        return;
    }
    wire.connections.fetch_add(1, Ordering::AcqRel);
    let broken = AtomicBool::new(false);
    let connection =
        Arc::new(Connection { agent, coordinator: stream, broken, wire: Arc::clone(wire) });
    for way in [Way::Up, Way::Down] {
        let connection = Arc::clone(&connection);
        thread::spawn(move || {
            // A direction that broke takes the other with it; one that was closed does not.
            if !matches!(connection.pump(way), Ok(End::Closed)) {
                reset_at_close(&connection.agent);
                reset_at_close(&connection.coordinator);
                connection.broken.store(true, Ordering::Release);
            }
        });
    }
}

/// How a connection ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// By the end that speaks, in order.
    Closed,
    /// By a fault or an error.
    Reset,
}

impl Connection {
    /// Copies bytes in one direction until the connection ends.
    fn pump(&self, way: Way) -> io::Result<End> {
        let (mut from, mut to) = match way {
            Way::Down => (&self.coordinator, &self.agent),
            Way::Up | Way::Both => (&self.agent, &self.coordinator),
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut swallowed = false;
        loop {
            let cut = self.cut(way);
            if cut == Some(Cut::Reset) || (swallowed && cut != Some(Cut::Swallow)) {
                return Ok(End::Reset);
            }
            if self.broken.load(Ordering::Acquire) {
                return Ok(End::Reset);
            }
            if cut == Some(Cut::Stall) {
                thread::sleep(LOOK_PERIOD);
                continue;
            }
            let read = match from.read(&mut buffer) {
                // Nobody is told of an end either.
                Ok(0) if cut == Some(Cut::Swallow) => {
                    swallowed = true;
                    thread::sleep(LOOK_PERIOD);
                    continue;
                }
                Ok(0) => {
                    to.shutdown(Shutdown::Write)?;
                    return Ok(End::Closed);
                }
                Ok(read) => read,
                Err(error) if is_pause(&error) => continue,
                Err(error) => return Err(error),
            };
            if cut == Some(Cut::Swallow) {
                swallowed = true;
                continue;
            }
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                if self.cut(way) == Some(Cut::Reset) || self.broken.load(Ordering::Acquire) {
                    return Ok(End::Reset);
                }
                match to.write(rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(error) if is_pause(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// The fault that this direction suffers now. A reset concerns both.
    fn cut(&self, way: Way) -> Option<Cut> {
        let (cut, cut_way) = self.wire.now()?;
        (cut == Cut::Reset || cut_way == Way::Both || cut_way == way).then_some(cut)
    }
}

fn is_pause(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut, io::ErrorKind::Interrupted];
    kinds.contains(&error.kind())
}

/// The next close tells the other end at once that bytes may be lost.
fn reset_at_close(stream: &TcpStream) {
    // A stream that does not take the option is closed in order, which is a fault as well.
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy before a server that sends back what it gets.
    fn echo() -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut copy = stream.try_clone().unwrap();
                    // The proxy may reset it.
                    let _ = io::copy(&mut copy, &mut stream);
                });
            }
        });
        Proxy::start(address).unwrap()
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    fn say(stream: &mut TcpStream, text: &str) -> io::Result<String> {
        stream.write_all(text.as_bytes())?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    #[test]
    fn what_is_not_cut_passes_and_ends_with_its_ends() {
        let proxy = echo();
        let mut stream = connect(&proxy);
        assert_eq!(say(&mut stream, "hello").unwrap(), "hello");
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_reset_breaks_old_and_new_connections() {
        let proxy = echo();
        let mut stream = connect(&proxy);
        assert_eq!(say(&mut stream, "hello").unwrap(), "hello");
        proxy.set(Some((Cut::Reset, Way::Both)));
        let kind = stream.read(&mut [0]).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::ConnectionReset);
        assert!(say(&mut connect(&proxy), "x").is_err());
        proxy.set(None);
        assert_eq!(say(&mut connect(&proxy), "again").unwrap(), "again");
    }

    #[test]
    fn stalled_bytes_arrive_later_and_swallowed_ones_never() {
        let proxy = echo();
        for way in [Way::Both, Way::Up, Way::Down] {
            let mut stream = connect(&proxy);
            assert_eq!(say(&mut stream, "hello").unwrap(), "hello");
            proxy.set(Some((Cut::Stall, way)));
            thread::sleep(3 * LOOK_PERIOD);
            stream.write_all(b"late").unwrap();
            stream.set_read_timeout(Some(5 * LOOK_PERIOD)).unwrap();
            assert!(is_pause(&stream.read(&mut [0; 4]).unwrap_err()), "{way:?}");
            proxy.set(None);
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"late");
            proxy.set(Some((Cut::Swallow, way)));
            thread::sleep(3 * LOOK_PERIOD);
            stream.write_all(b"lost").unwrap();
            stream.set_read_timeout(Some(5 * LOOK_PERIOD)).unwrap();
            assert!(is_pause(&stream.read(&mut [0; 4]).unwrap_err()), "{way:?}");
            proxy.set(None);
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            assert!(stream.read_exact(&mut answer).is_err(), "{way:?}");
        }
    }
}
