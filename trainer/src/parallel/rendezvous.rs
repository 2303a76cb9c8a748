//! How the members of a training find each other: rank 0 listens where all look for it, the others
//! come, and it tells them where the others are.
//!
//! Everyone who connects says first which training, attempt and rank it is. What says something
//! else, or nothing, is let go and does no harm: a port scan, or a member of an earlier attempt.

use super::{Membership, ParallelError};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Longest time until all members have come. They are leased together, but an agent may fetch the
/// text first that another has already: some 100 GB. One that never comes ends the attempt sooner.
pub(super) const COME_WITHIN: Duration = Duration::from_secs(1_800);
/// Longest time for one try to connect: several round trips of the longest way.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Longest time between a connection and its whole hello; it is sent at once.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Longest time that rank 0 takes to welcome who comes: it does nothing else meanwhile. What
/// listens there and does not, is another program.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// Longest time in which rank 0's port becomes free: the process of an earlier attempt may be about
/// to end. What else has it keeps it, and the next attempt gets another port.
const FREE_WITHIN: Duration = Duration::from_secs(30);
/// Longest time in which a member that is there can be reached by another one. A firewall that lets
/// members reach rank 0 only would hold them up until all patience is over.
const REACH_WITHIN: Duration = Duration::from_secs(30);
/// Connections at a time that have not said who they are. A scan has no use for more.
const STRANGERS_MAX: usize = 64;
/// Pause between two looks at what has happened.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Pause between two tries to connect.
const TRY_EVERY: Duration = Duration::from_millis(100);

const MAGIC: [u8; 8] = *b"brinedp\x01";
const HELLO_BYTES: usize = 8 + 32 + 4 + 2;
/// The answer to a hello that is right.
const WELCOME: u8 = 1;
/// Address, all zeros for rank 0's own machine, and port.
const PLACE_BYTES: usize = 16 + 2;

/// When to give up, and whether somebody wants it before.
pub(super) struct Patience<'a> {
    begun: Instant,
    limit: Duration,
    stop: &'a dyn Fn() -> bool,
}

/// What a member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hello {
    key: [u8; 32],
    rank: u32,
    /// Where it listens for those of higher rank.
    port: u16,
}

impl Hello {
    fn encode(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..40].copy_from_slice(&self.key);
        bytes[40..44].copy_from_slice(&self.rank.to_le_bytes());
        bytes[44..].copy_from_slice(&self.port.to_le_bytes());
        bytes
    }

    /// `None` where it is of another program, training, attempt or number of members.
    fn decode(bytes: &[u8; HELLO_BYTES], key: &[u8; 32]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (found, rest) = rest.split_first_chunk::<32>()?;
        let (rank, rest) = rest.split_first_chunk::<4>()?;
        let port = u16::from_le_bytes(*rest.first_chunk::<2>()?);
        (*magic == MAGIC && found == key).then_some(Self {
            key: *found,
            rank: u32::from_le_bytes(*rank),
            port,
        })
    }
}

/// What all members of one attempt know and nobody else says by chance. It keeps mistakes out, not
/// enemies: who can read the coordinator's leases can make it.
fn key(membership: &Membership<'_>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("brine data-parallel training 1");
    hasher.update(membership.name.as_bytes());
    hasher.update(&[0]);
    hasher.update(&membership.attempt.0.to_le_bytes());
    hasher.update(&membership.world_size.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// A connection to every other member, by rank.
pub(super) fn meet(
    membership: &Membership<'_>,
    patience: &Patience<'_>,
) -> Result<BTreeMap<u32, TcpStream>, ParallelError> {
    let key = key(membership);
    if membership.rank == 0 {
        return lead(membership, &key, patience);
    }
    loop {
        // Rank 0 may be another attempt's, or go down and come back: then all over again.
        match follow(membership, &key, patience) {
            Err(TryAgain(last)) => patience.check(membership, "rank 0", &last)?,
            Ok(met) => return met,
        }
        std::thread::sleep(TRY_EVERY);
    }
}

/// A try that another one may follow, and why.
struct TryAgain(String);

fn lead(
    membership: &Membership<'_>,
    key: &[u8; 32],
    patience: &Patience<'_>,
) -> Result<BTreeMap<u32, TcpStream>, ParallelError> {
    let soon = Patience::new(FREE_WITHIN.min(patience.limit), patience.stop);
    let listener = loop {
        match listen(membership.master_port) {
            Ok(listener) => break listener,
            Err(source) if source.kind() == ErrorKind::AddrInUse => {
                if soon.is_over() {
                    return Err(ParallelError::Listen { port: membership.master_port, source });
                }
                if soon.is_stopped() {
                    return Err(ParallelError::Stopped);
                }
            }
            Err(source) => {
                return Err(ParallelError::Listen { port: membership.master_port, source });
            }
        }
        std::thread::sleep(TRY_EVERY);
    };
    let met = gather(&listener, membership, key, 1, patience)?;
    let places: Vec<u8> = met
        .values()
        .flat_map(|(stream, port)| {
            let seen = stream.peer_addr().map(|address| address.ip().to_canonical());
            encode_place(seen.ok().filter(|address| !address.is_loopback()), *port)
        })
        .collect();
    let mut streams = BTreeMap::new();
    for (rank, (mut stream, _)) in met {
        stream.write_all(&places).map_err(|source| ParallelError::Lost { rank, source })?;
        streams.insert(rank, stream);
    }
    Ok(streams)
}

type Met = Result<BTreeMap<u32, TcpStream>, ParallelError>;

fn follow(
    membership: &Membership<'_>,
    key: &[u8; 32],
    patience: &Patience<'_>,
) -> Result<Met, TryAgain> {
    let again = |doing: &str| {
        let doing = doing.to_owned();
        move |error: io::Error| TryAgain(format!("{doing}: {error}"))
    };
    let listener = listen(0).map_err(again("listening"))?;
    let port = listener.local_addr().map_err(again("listening"))?.port();
    let hello = Hello { key: *key, rank: membership.rank, port };
    let host = (membership.master_addr, membership.master_port);
    let found = host.to_socket_addrs().map_err(again("looking for rank 0"))?;
    let masters: Vec<SocketAddr> = found.collect();
    let soon = Patience::new(WELCOME_WITHIN, patience.stop);
    let mut master = connect(&masters, hello, &soon).map_err(again("connecting to rank 0"))?;
    // Rank 0 answers when the last member has come.
    let mut places = vec![0; PLACE_BYTES * (membership.world_size as usize - 1)];
    read(&mut master, &mut places, patience).map_err(again("waiting for the others"))?;
    let mut streams = BTreeMap::from([(0, master)]);
    for (other, place) in (1..membership.rank).zip(places.chunks_exact(PLACE_BYTES)) {
        let (address, port) = decode_place(place);
        let addresses: Vec<SocketAddr> = match address {
            Some(address) => vec![(address, port).into()],
            None => masters.iter().map(|master| (master.ip(), port).into()).collect(),
        };
        match reach(other, &addresses, hello, &streams[&0], patience)? {
            Ok(stream) => streams.insert(other, stream),
            Err(error) => return Ok(Err(error)),
        };
    }
    let higher = gather(&listener, membership, key, membership.rank + 1, patience);
    Ok(higher.map(|higher| {
        streams.extend(higher.into_iter().map(|(rank, (stream, _))| (rank, stream)));
        streams
    }))
}

/// A connection to member `other`, which listened there when rank 0 said so. If rank 0 is gone
/// meanwhile, so may be that member.
fn reach(
    other: u32,
    addresses: &[SocketAddr],
    hello: Hello,
    master: &TcpStream,
    patience: &Patience<'_>,
) -> Result<Result<TcpStream, ParallelError>, TryAgain> {
    let soon = Patience::new(REACH_WITHIN.min(patience.limit), patience.stop);
    loop {
        let source = match connect(addresses, hello, &soon) {
            Ok(stream) => return Ok(Ok(stream)),
            Err(error) => error,
        };
        if soon.is_stopped() {
            return Ok(Err(ParallelError::Stopped));
        }
        if is_gone(master) {
            return Err(TryAgain(format!("rank 0 went away while looking for rank {other}")));
        }
        if soon.is_over() {
            let places: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
            let (rank, place) = (hello.rank, places.join(" or "));
            return Ok(Err(ParallelError::Unreachable { rank, other, place, source }));
        }
        std::thread::sleep(TRY_EVERY);
    }
}

/// Whether the other end of a connection has closed it and nothing that it said is left.
fn is_gone(stream: &TcpStream) -> bool {
    let peek = || {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    };
    match peek() {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// The members from rank `first` on, each with the port at which it listens.
fn gather(
    listener: &TcpListener,
    membership: &Membership<'_>,
    key: &[u8; 32],
    first: u32,
    patience: &Patience<'_>,
) -> Result<BTreeMap<u32, (TcpStream, u16)>, ParallelError> {
    let wanted = first..membership.world_size;
    let mut met: BTreeMap<u32, (TcpStream, u16)> = BTreeMap::new();
    let mut strangers: Vec<Stranger> = Vec::new();
    loop {
        // One that went down while it waited for rank 0's word may come again.
        met.retain(|_, (stream, _)| membership.rank > 0 || !is_gone(stream));
        if met.len() == wanted.len() {
            return Ok(met);
        }
        let missing = || {
            let missing: Vec<String> = wanted
                .clone()
                .filter(|rank| !met.contains_key(rank))
                .map(|r| r.to_string())
                .collect();
            format!("rank {}", missing.join(", "))
        };
        patience.check(membership, &missing(), "it has not connected")?;
        if strangers.len() < STRANGERS_MAX
            && let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            strangers.push(Stranger::new(stream));
        }
        let mut still = Vec::new();
        for stranger in strangers {
            match stranger.look(key) {
                Look::Waits(stranger) => still.push(stranger),
                Look::Gone => {}
                // One that comes again has given up its first connection.
                Look::Said(hello, stream) if wanted.contains(&hello.rank) => {
                    if let Ok(stream) = welcome(stream) {
                        met.insert(hello.rank, (stream, hello.port));
                    }
                }
                Look::Said(..) => {}
            }
        }
        strangers = still;
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A connection that has not said who it is.
struct Stranger {
    stream: TcpStream,
    since: Instant,
    said: Vec<u8>,
}

enum Look {
    Waits(Stranger),
    Gone,
    Said(Hello, TcpStream),
}

impl Stranger {
    fn new(stream: TcpStream) -> Self {
        Self { stream, since: crate::log::now(), said: Vec::new() }
    }

    fn look(mut self, key: &[u8; 32]) -> Look {
        let mut rest = [0; HELLO_BYTES];
        let rest = &mut rest[self.said.len()..];
        match self.stream.read(rest) {
            Ok(0) => return Look::Gone,
            Ok(count) => self.said.extend_from_slice(&rest[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Look::Gone,
        }
        match <&[u8; HELLO_BYTES]>::try_from(&*self.said) {
            Ok(whole) => match Hello::decode(whole, key) {
                Some(hello) => Look::Said(hello, self.stream),
                None => Look::Gone,
            },
            Err(_) if crate::log::now().duration_since(self.since) > HELLO_WITHIN => Look::Gone,
            Err(_) => Look::Waits(self),
        }
    }
}

fn welcome(mut stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(HELLO_WITHIN))?;
    stream.write_all(&[WELCOME])?;
    Ok(stream)
}

/// On every address of this machine, of both kinds where there are both.
fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)) {
        Err(error) if error.kind() != ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        }
        bound => bound,
    }?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A connection to the first address that welcomes `hello`.
fn connect(
    addresses: &[SocketAddr],
    hello: Hello,
    patience: &Patience<'_>,
) -> io::Result<TcpStream> {
    let mut last = io::Error::other("it has no address");
    for address in addresses {
        let tried = TcpStream::connect_timeout(address, CONNECT_WITHIN).and_then(|mut stream| {
            stream.write_all(&hello.encode())?;
            let mut answer = [0];
            read(&mut stream, &mut answer, patience)?;
            match answer {
                [WELCOME] => Ok(stream),
                _ => Err(io::Error::other("another program listens there")),
            }
        });
        match tried {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                last = io::Error::other("a member of another training or attempt listens there");
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Fills `buffer`, however long it takes within `patience`.
fn read(stream: &mut TcpStream, buffer: &mut [u8], patience: &Patience<'_>) -> io::Result<()> {
    stream.set_read_timeout(Some(TRY_EVERY))?;
    let mut done = 0;
    while done < buffer.len() {
        match stream.read(&mut buffer[done..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(error)
                if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) =>
            {
                if patience.is_over() || patience.is_stopped() {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    stream.set_read_timeout(None)
}

fn encode_place(address: Option<IpAddr>, port: u16) -> [u8; PLACE_BYTES] {
    let mut bytes = [0; PLACE_BYTES];
    let address = address.map(|address| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    });
    bytes[..16].copy_from_slice(&address.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
    bytes[16..].copy_from_slice(&port.to_le_bytes());
    bytes
}

/// `place` has the length of one.
fn decode_place(place: &[u8]) -> (Option<IpAddr>, u16) {
    let mut address = [0; 16];
    address.copy_from_slice(&place[..16]);
    let address = Ipv6Addr::from(address);
    let address = (!address.is_unspecified()).then(|| IpAddr::V6(address).to_canonical());
    (address, u16::from_le_bytes([place[16], place[17]]))
}

impl<'a> Patience<'a> {
    pub(super) fn new(limit: Duration, stop: &'a dyn Fn() -> bool) -> Self {
        Self { begun: crate::log::now(), limit, stop }
    }

    pub(super) fn is_stopped(&self) -> bool {
        (self.stop)()
    }

    pub(super) fn waited(&self) -> Duration {
        crate::log::now().duration_since(self.begun)
    }

    pub(super) fn is_over(&self) -> bool {
        self.waited() > self.limit
    }

    /// # Errors
    /// It is over, or somebody asked to stop.
    fn check(
        &self,
        membership: &Membership<'_>,
        missing: &str,
        last: &str,
    ) -> Result<(), ParallelError> {
        if self.is_stopped() {
            return Err(ParallelError::Stopped);
        }
        if !self.is_over() {
            return Ok(());
        }
        Err(ParallelError::Missing {
            rank: membership.rank,
            waited_s: self.waited().as_secs(),
            missing: missing.to_owned(),
            last: last.to_owned(),
            master: format!("{}:{}", membership.master_addr, membership.master_port),
        })
    }
}
