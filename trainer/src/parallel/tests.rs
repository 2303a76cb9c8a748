use super::*;
use proto::FailureClass;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

const SOON: Duration = Duration::from_millis(500);
const LATE: Duration = Duration::from_secs(60);

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn membership(rank: u32, world_size: u32, master_port: u16) -> Membership<'static> {
    Membership {
        rank,
        world_size,
        master_addr: "localhost",
        master_port,
        name: "a training",
        attempt: Attempt(1),
        come_within: LATE,
    }
}

fn join(membership: &Membership<'_>) -> Result<Group, ParallelError> {
    Group::join(Some(membership), Device::Cpu, 1_000, &|| false)
}

/// What each of `size` members finds, by rank, each in a thread of its own over real sockets.
fn each<T: Send>(size: u32, work: impl Fn(&mut Group) -> T + Sync) -> Vec<T> {
    let port = free_port();
    thread::scope(|scope| {
        let member = |rank| {
            let work = &work;
            scope.spawn(move || work(&mut join(&membership(rank, size, port)).unwrap()))
        };
        let members: Vec<_> = (0..size).map(member).collect();
        members.into_iter().map(|member| member.join().unwrap()).collect()
    })
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap()
}

#[test]
fn parts_are_the_whole() {
    // The ends of the parts.
    for (total, expected) in [
        (6, &[6][..]),
        (6, &[3, 6]),
        (7, &[3, 5, 7]),
        (2, &[1, 2, 2]),
        (0, &[0, 0]),
        (u64::MAX, &[1 << 63, u64::MAX]),
    ] {
        let parts = expected.len() as u32;
        let mut start = 0;
        for (index, &end) in (0..).zip(expected) {
            assert_eq!(part(total, index, parts), start..end, "{index} of {total} in {parts}");
            start = end;
        }
        assert_eq!(start, total);
    }
}

// Goal: the sum is that of adding one rank after the other, to the bit, on every rank: for lengths
// that leave some without a part, and values whose sum depends on the order.
#[test]
fn a_sum_is_added_in_the_order_of_ranks() {
    for size in [1, 2, 3, 5] {
        for length in [1_usize, 2, 4, 999] {
            let values = |rank: u32| -> Vec<f32> {
                let value = |i: usize| ((i * 7 + rank as usize * 13) % 29) as f32 - 14.0;
                (0..length).map(|i| value(i) * 10f32.powi(rank as i32 * 3 - 6)).collect()
            };
            let mut expected = values(0);
            for rank in 1..size {
                for (sum, value) in expected.iter_mut().zip(values(rank)) {
                    *sum += value;
                }
            }
            let sums = each(size, |group| {
                let vector = Tensor::from_slice(&values(group.rank()));
                numbers(&group.sum(vector).map_err(drop).unwrap())
            });
            assert_eq!(sums, vec![expected; size as usize], "{size} members, {length} values");
        }
    }
}

#[test]
fn wishes_are_one_wish() {
    let wish = |stop, broken, spent| Wish { stop, broken, spent };
    for (wishes, expected) in [
        ([wish(false, false, false); 3], wish(false, false, false)),
        (
            [wish(false, false, false), wish(false, false, false), wish(true, false, false)],
            wish(true, false, false),
        ),
        (
            [wish(false, true, false), wish(true, false, false), wish(false, false, false)],
            wish(true, true, false),
        ),
        // Only the first one's clock counts.
        (
            [wish(false, false, false), wish(false, false, true), wish(false, false, true)],
            wish(false, false, false),
        ),
        (
            [wish(false, false, true), wish(false, false, false), wish(false, false, false)],
            wish(false, false, true),
        ),
    ] {
        let agreed = each(3, |group| group.agree(wishes[group.rank() as usize]).unwrap());
        assert_eq!(agreed, [expected; 3], "{wishes:?}");
    }
}

#[test]
fn the_first_with_the_most_is_the_source() {
    for (steps, expected) in [([0, 0, 0], (0, 0)), ([3, 9, 9], (1, 9)), ([1, 0, 2], (2, 2))] {
        let found = each(3, |group| group.highest(steps[group.rank() as usize]).unwrap());
        assert_eq!(found, [expected; 3], "{steps:?}");
    }
}

#[test]
fn what_the_first_finds_all_have() {
    let found = each(3, |group| {
        let rank = f64::from(group.rank());
        group.by_first(|| Ok([rank, f64::NAN])).unwrap().map(f64::to_bits)
    });
    assert_eq!(found, [[0.0, f64::NAN].map(f64::to_bits); 3]);
}

#[test]
fn a_failure_is_told_to_all_with_its_class() {
    let found = each(3, |group| {
        if group.rank() == 1 {
            let error = ParallelError::Differs { rank: 1, step: 2 };
            let class = FailureClass::Trial;
            let error = ParallelError::Failed { rank: 1, class, message: error.to_string() };
            drop(group.fail(error.into()));
            return None;
        }
        group.agree(Wish::default()).err().map(|error| (error.class(), error.to_string()))
    });
    for (class, message) in found.into_iter().flatten() {
        assert_eq!(class, FailureClass::Trial);
        assert!(message.contains("rank 1"), "{message}");
    }
}

#[test]
fn a_member_that_is_gone_is_named_by_all_others() {
    let begun = crate::log::now();
    let found = each(3, |group| {
        if group.rank() == 2 {
            return None; // Its connections end as those of a process that was killed.
        }
        let error = group.sum(Tensor::from_slice(&[1f32; 9])).unwrap_err();
        match error {
            SumError::Parallel(error) => {
                let error = group.fail(error.into());
                Some((error.class(), error.to_string()))
            }
            SumError::Torch(error) => panic!("{error}"),
        }
    });
    assert_eq!(found.iter().flatten().count(), 2);
    for (class, message) in found.into_iter().flatten() {
        assert_eq!(class, FailureClass::Infrastructure);
        assert!(message.contains("lost rank 2"), "{message}");
    }
    assert!(crate::log::now().duration_since(begun) < LATE, "not by waiting");
}

// Goal: NCCL says of a member's end only that it does not answer; the member's own word is the one
// that counts, and without one that it is gone. What no other is behind stays as it is.
#[test]
fn behind_an_error_of_nccl_is_the_member_that_failed() {
    let aborted = || ParallelError::from(NcclError::Aborted).into();
    let found = each(3, |group| match group.rank() {
        0 => Some(group.fail(aborted())),
        1 => {
            let source = TchError::Torch("a bad shape".to_owned());
            drop(group.fail(TrainError::Torch { doing: "training step 3".to_owned(), source }));
            None
        }
        _ => {
            // It has heard of neither.
            thread::sleep(SOON);
            None
        }
    });
    let error = found.into_iter().flatten().next().unwrap();
    let said = "rank 1 failed: libtorch failed training step 3: ";
    assert!(error.to_string().starts_with(said), "{error}");
    assert_eq!(error.class(), FailureClass::Trial);

    let found = each(2, |group| (group.rank() == 0).then(|| group.fail(aborted())));
    let error = found.into_iter().flatten().next().unwrap();
    assert_eq!(error.to_string(), "lost rank 1");

    let found = each(2, |group| match group.rank() {
        0 => Some(group.fail(aborted())),
        // It goes on for longer than the other waits for its word.
        _ => {
            thread::sleep(Duration::from_secs(3));
            None
        }
    });
    let error = found.into_iter().flatten().next().unwrap();
    assert!(error.to_string().contains("given up because a member is gone"), "{error}");
}

#[test]
fn other_weights_are_noticed() {
    let found = each(3, |group| {
        let weights = Tensor::from_slice(&[1f32, if group.rank() == 2 { 0.0 } else { -0.0 }]);
        let same = group.check_same(4, &Tensor::from_slice(&[1f32, 2.0])).is_ok();
        let differ = match group.check_same(5, &weights) {
            Err(SumError::Parallel(error)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        (same, differ.contains("after 5 steps rank 2 holds other weights than rank 0"))
    });
    assert_eq!(found, [(true, true); 3]);
}

// Goal: a scan, a program that is silent, one that talks too much, a member of an earlier attempt
// and one of a group of another size are turned away, and the right members still meet.
#[test]
fn strangers_do_no_harm() {
    let port = free_port();
    thread::scope(|scope| {
        let rank_0 = scope.spawn(move || join(&membership(0, 2, port)).unwrap());
        let connect = || loop {
            if let Ok(stream) = TcpStream::connect(("localhost", port)) {
                break stream;
            }
            thread::sleep(Duration::from_millis(10));
        };
        drop(connect());
        let _silent = connect();
        let mut half = connect();
        half.write_all(b"brinedp").unwrap();
        let mut talker = connect();
        talker.write_all(&[b'x'; 1_000]).unwrap();
        let mut answer = Vec::new();
        // Turned away: an end, or a reset because nobody reads the rest.
        assert_eq!(talker.read_to_end(&mut answer).unwrap_or(0), 0);
        for other in [
            Membership { attempt: Attempt(2), ..membership(1, 2, port) },
            Membership { name: "another training", ..membership(1, 2, port) },
            membership(1, 3, port),
            membership(2, 2, port),
        ] {
            let other = Membership { come_within: SOON, ..other };
            let error = join(&other).err().unwrap();
            assert_eq!(error.class(), FailureClass::Infrastructure);
            assert!(error.to_string().contains("rank 0 (connecting to rank 0"), "{error}");
        }
        let mut rank_1 = join(&membership(1, 2, port)).unwrap();
        let mut rank_0 = rank_0.join().unwrap();
        let wish = Wish { stop: true, ..Wish::default() };
        let other = scope.spawn(move || rank_1.agree(Wish::default()).unwrap());
        assert_eq!((rank_0.agree(wish).unwrap(), other.join().unwrap()), (wish, wish));
    });
}

// Goal: a member that goes down while it waits and comes again is met once.
#[test]
fn a_member_may_come_again_before_all_are_there() {
    let port = free_port();
    thread::scope(|scope| {
        let rank_0 = scope.spawn(move || join(&membership(0, 3, port)).map(drop));
        let hasty = Membership { come_within: SOON, ..membership(1, 3, port) };
        let error = join(&hasty).err().unwrap().to_string();
        assert!(error.contains("waiting for the others"), "{error}");
        // Last, so that rank 0 would have all members if it counted the one that is gone.
        let others = [2, 1].map(|rank| {
            let member = scope.spawn(move || join(&membership(rank, 3, port)).map(drop));
            thread::sleep(Duration::from_millis(200));
            member
        });
        for member in others.into_iter().chain([rank_0]) {
            member.join().unwrap().unwrap();
        }
    });
}

#[test]
fn who_waits_in_vain_says_for_whom_and_where() {
    let port = free_port();
    let alone = Membership { come_within: SOON, ..membership(0, 4, port) };
    let begun: Instant = crate::log::now();
    let error = join(&alone).err().unwrap();
    assert!(crate::log::now().duration_since(begun) < LATE);
    assert_eq!(error.class(), FailureClass::Infrastructure);
    let expected = "for rank 1, 2, 3 (it has not connected); members must reach each other";
    assert!(error.to_string().contains(expected), "{error}");
    let unknown = Membership { master_addr: "no-such-host.invalid", ..alone };
    let error = join(&Membership { rank: 1, ..unknown }).err().unwrap().to_string();
    assert!(error.contains("looking for rank 0"), "{error}");
    let taken = TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = join(&Membership { master_port: port, ..alone }).err().unwrap();
    assert!(matches!(error, ParallelError::Listen { .. }), "{error}");
}

// Goal: a firewall between two members that both reach rank 0 is named, and does not hold them up
// for as long as a member that is not there yet may take; without rank 0 all begins again.
#[test]
fn a_member_that_can_not_be_reached_is_named() {
    // Rank 1 is said to be at a port where nobody listens.
    let first = |port: u16, stays: bool| {
        let listener = TcpListener::bind(("localhost", port)).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 46]).unwrap();
        stream.write_all(&[1]).unwrap();
        let mut places = [0; 2 * 18];
        places[16..18].copy_from_slice(&free_port().to_le_bytes());
        stream.write_all(&places).unwrap();
        if stays {
            drop(stream.read(&mut [0]));
        }
    };
    for (stays, expected) in [(true, "rank 2 cannot reach rank 1 at"), (false, "for rank 0 (")] {
        let port = free_port();
        let member = Membership { come_within: SOON, ..membership(2, 3, port) };
        let error = thread::scope(|scope| {
            scope.spawn(move || first(port, stays));
            join(&member).err().unwrap().to_string()
        });
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn who_is_asked_to_stop_does_not_wait() {
    for rank in [0, 1] {
        let membership = membership(rank, 2, free_port());
        let joined = Group::join(Some(&membership), Device::Cpu, 9, &|| true);
        assert!(matches!(joined, Err(ParallelError::Stopped)));
    }
}

// Goal: without NCCL all members are told at once, with what to do.
#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn gpus_need_nccl() {
    let Err(error) = nccl::version() else {
        eprintln!("skipped: NCCL is there");
        return;
    };
    assert!(error.to_string().contains("libnccl.so.2 cannot be loaded"), "{error}");
    let port = free_port();
    thread::scope(|scope| {
        let member = |rank| {
            let join = move || {
                Group::join(Some(&membership(rank, 2, port)), Device::Cuda(0), 9, &|| false)
            };
            scope.spawn(move || join().err().unwrap())
        };
        for member in [member(0), member(1)] {
            let error = member.join().unwrap();
            assert_eq!(error.class(), FailureClass::Infrastructure);
            assert!(error.to_string().contains("LD_LIBRARY_PATH"), "{error}");
        }
    });
}
