//! The communicator over a stand-in for NCCL's library, and over NCCL itself where there is a GPU.

use super::stand_in::{self, STAND_IN};
use super::*;
use crate::log::now;

/// Each test has a hub of its own.
fn id(hub: u8) -> [u8; ID_BYTES] {
    [hub; ID_BYTES]
}

fn patience(seconds: u64) -> Patience<'static> {
    Patience::new(Duration::from_secs(seconds), &|| false)
}

/// A member that has joined all others of the hub.
fn joined(hub: u8, rank: u32, world_size: u32) -> Arc<Communicator> {
    let communicator = Arc::new(Communicator::new(rank, world_size));
    communicator.join_by(&STAND_IN, id(hub), &patience(60)).unwrap();
    communicator
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor).unwrap()
}

fn comm(communicator: &Communicator) -> Comm {
    let State::Joined(_, Pointer(comm)) = *communicator.state() else { panic!("not joined") };
    comm
}

fn until(mut is_true: impl FnMut() -> bool) {
    let begun = now();
    while !is_true() {
        assert!(now().duration_since(begun) < Duration::from_secs(60), "it never comes");
        thread::sleep(Duration::from_millis(5));
    }
}

// Goal: whatever the lengths, and with more members than values too, every member ends with the
// sum that is added in the order of ranks, to the bit.
#[test]
fn a_sum_is_added_in_the_order_of_ranks() {
    let mut hub = 1;
    for world_size in [1_u32, 2, 3, 5] {
        for length in [1_usize, 2, 4, 7, 1_009] {
            let values = |rank: u32| -> Vec<f32> {
                // Of such different sizes that every order of addition has another sum.
                let value = |i: usize| (i as f32 - 3.3) * 1e3f32.powi((rank as i32 * 2) % 5 - 2);
                (0..length).map(value).collect()
            };
            let mut wanted = values(0);
            for rank in 1..world_size {
                wanted.iter_mut().zip(values(rank)).for_each(|(sum, value)| *sum += value);
            }
            thread::scope(|scope| {
                for rank in 0..world_size {
                    let (wanted, values) = (&wanted, values(rank));
                    scope.spawn(move || {
                        let communicator = joined(hub, rank, world_size);
                        for _ in 0..2 {
                            let sum = communicator.sum(Tensor::from_slice(&values)).unwrap();
                            assert_eq!(numbers(&sum), *wanted, "{rank} of {world_size}: {length}");
                        }
                        communicator.check_whole().unwrap();
                    });
                }
            });
            hub += 1;
        }
    }
}

// Goal: a member that waits for one that is gone lets go as soon as somebody notices, wherever it
// waits, and says so ever after.
#[test]
fn who_waits_for_one_that_is_gone_lets_go() {
    let is_aborted = |error: &NcclError| matches!(error, NcclError::Aborted);
    thread::scope(|scope| {
        let [first, second] = [0, 1].map(|rank| scope.spawn(move || joined(101, rank, 2)));
        let [first, second] = [first, second].map(|member| member.join().unwrap());
        drop(second);
        let waiting = Arc::clone(&first);
        let waiting = scope.spawn(move || waiting.sum(Tensor::from_slice(&[1f32, 2.0])));
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        first.abort();
        assert!(is_aborted(&waiting.join().unwrap().unwrap_err()));
        assert!(is_aborted(&first.check_whole().unwrap_err()));
        assert!(is_aborted(&first.sum(Tensor::from_slice(&[1f32])).unwrap_err()));

        let alone = Arc::new(Communicator::new(0, 2));
        let joining = Arc::clone(&alone);
        let joining = scope.spawn(move || joining.join_by(&STAND_IN, id(102), &patience(60)));
        thread::sleep(Duration::from_millis(50));
        assert!(!joining.is_finished());
        alone.abort();
        let error = joining.join().unwrap().unwrap_err();
        assert!(matches!(&error, ParallelError::Nccl(error) if is_aborted(error)), "{error}");
    });
    let before = Communicator::new(0, 1);
    before.abort();
    let error = before.join_by(&STAND_IN, id(103), &patience(60)).unwrap_err();
    assert!(matches!(&error, ParallelError::Nccl(error) if is_aborted(error)), "{error}");
    assert!(!stand_in::was_asked(103), "it was asked although given up");
}

// Goal: who waits in vain for the others' GPUs ends, with what to look for.
#[test]
fn joining_has_a_limit_and_can_be_stopped() {
    let join = |hub: u8, patience: Patience<'_>| {
        Communicator::new(0, 2).join_by(&STAND_IN, id(hub), &patience).unwrap_err()
    };
    let error = join(111, Patience::new(Duration::from_millis(20), &|| false));
    assert!(error.to_string().contains("NCCL_SOCKET_IFNAME"), "{error}");
    let error = join(112, Patience::new(Duration::from_secs(60), &|| true));
    assert!(matches!(error, ParallelError::Stopped), "{error}");
}

// Goal: an error that belongs to no call, because the calls were made before it, is found by the
// watch or by the next call, whoever comes first, and has NCCL's words.
#[test]
fn errors_of_the_network_are_found() {
    let words = "NCCL failed exchanging: remote process exited: Connection closed by 10.0.0.2";
    let communicator = joined(121, 0, 1);
    stand_in::break_network(comm(&communicator));
    let sum = || communicator.sum(Tensor::from_slice(&[1f32]));
    assert_eq!(sum().unwrap_err().to_string(), words);

    let communicator = joined(122, 0, 1);
    communicator.watch().unwrap();
    communicator.check_whole().unwrap();
    stand_in::break_network(comm(&communicator));
    until(|| communicator.check_whole().is_err());
    assert_eq!(communicator.check_whole().unwrap_err().to_string(), words);
    let sum = communicator.sum(Tensor::from_slice(&[1f32]));
    assert_eq!(sum.unwrap_err().to_string(), words);
}

// Goal: NCCL itself takes its configuration, joins one GPU, sends to itself, which is the way that
// it takes to others, and is given up. Without a GPU it refuses in words of its own.
#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn one_member_joins_on_gpu() {
    // Loads the part for CUDA, beside which NCCL is, where there is a driver.
    let gpus = crate::environment().gpus;
    let required = std::env::var_os("BRINE_REQUIRE_GPU").is_some_and(|value| value == "1");
    let version = match version() {
        Ok(version) => version,
        Err(error) => {
            assert!(!required, "BRINE_REQUIRE_GPU is set, but {error}");
            eprintln!("skipped: {error}");
            return;
        }
    };
    let alone = Arc::new(Communicator::new(0, 1));
    let joined = alone.join(unique_id().unwrap(), &patience(60));
    if !gpus.as_ref().is_ok_and(|count| *count > 0) {
        assert!(!required, "BRINE_REQUIRE_GPU is set, but {gpus:?}");
        let refused = joined.unwrap_err();
        let is_refused = matches!(refused, ParallelError::Nccl(NcclError::Refused(_)));
        assert!(is_refused, "{refused}");
        eprintln!("skipped: NCCL {version}, but no GPU ({refused})");
        return;
    }
    joined.unwrap();
    let on_gpu = |values: &[f32]| Tensor::from_slice(values).to_device(tch::Device::Cuda(0));
    let back = |tensor: &Tensor| numbers(&tensor.to_device(tch::Device::Cpu));
    assert_eq!(back(&alone.sum(on_gpu(&[1.0, 2.0, 3.0])).unwrap()), [1.0, 2.0, 3.0]);
    let (sent, received) = (on_gpu(&[4.0, 5.0]), on_gpu(&[0.0, 0.0]));
    let ways = [&sent, &received].map(|tensor| [(0, tensor.shallow_clone())]);
    alone.exchange(&ways[0], &ways[1]).unwrap();
    assert_eq!(back(&received), [4.0, 5.0]);
    alone.check_whole().unwrap();
    alone.abort();
    assert!(matches!(alone.check_whole(), Err(NcclError::Aborted)));
    assert!(matches!(alone.exchange(&ways[0], &ways[1]), Err(NcclError::Aborted)));
}
