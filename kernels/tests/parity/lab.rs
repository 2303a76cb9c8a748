//! What a case needs: fresh random numbers, tensors between guards on a machine, and comparison.

use kernels::launch::Launch;
use kernels::memory::{DevicePtr, DeviceValues, Kind};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::{Cell, RefCell};
use std::sync::OnceLock;

/// Bytes before and after a tensor that nobody may write. As floats they are not numbers, so that
/// what reads them shows it.
const GUARD: [u8; 64] = [0xff; 64];

/// Where kernels can run.
pub(crate) trait Machine: Launch {
    type Memory;
    /// Memory that begins with these bytes, at a multiple of 16.
    fn upload(&self, bytes: &[u8]) -> Self::Memory;
    fn address(&self, memory: &Self::Memory) -> u64;
    /// After all kernels that were launched.
    fn download(&self, memory: &Self::Memory) -> Vec<u8>;
}

/// A machine, the kind of activations there, and random numbers.
pub(crate) struct Lab<'m, M: Machine> {
    pub(crate) machine: &'m M,
    pub(crate) kind: Kind,
    /// Values by which every tensor begins beside a multiple of 16 bytes.
    pub(crate) shift: usize,
    random: RefCell<ChaCha8Rng>,
}

/// Runs `case` for both kinds, with and without whole packs, each with new random numbers.
pub(crate) fn each<M: Machine>(machine: &M, case: impl Fn(&Lab<'_, M>)) {
    for kind in [Kind::Float32, Kind::BFloat16] {
        for shift in [0, 1] {
            case(&Lab::new(machine, kind, shift));
        }
    }
}

/// `BRINE_SEED`, or a new one; the same for the whole process, so that one number repeats it.
pub(crate) fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| match std::env::var("BRINE_SEED") {
        Ok(seed) => seed.parse().expect("BRINE_SEED is a number"),
        Err(_) => rand::rng().next_u64(),
    })
}

impl<M: Machine> Drop for Lab<'_, M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again: BRINE_SEED={} ({:?}, shift {})", seed(), self.kind, self.shift);
        }
    }
}

impl<'m, M: Machine> Lab<'m, M> {
    pub(crate) fn new(machine: &'m M, kind: Kind, shift: usize) -> Self {
        let random = RefCell::new(ChaCha8Rng::seed_from_u64(seed()));
        Self { machine, kind, shift, random }
    }

    /// Numbers in -`size` .. `size` that `kind` can hold.
    pub(crate) fn random(&self, len: usize, size: f32) -> Vec<f32> {
        let mut random = self.random.borrow_mut();
        (0..len).map(|_| round(self.kind, random.random_range(-size..size))).collect()
    }

    /// Numbers below `end`.
    pub(crate) fn indices(&self, len: usize, end: usize) -> Vec<i64> {
        let mut random = self.random.borrow_mut();
        (0..len).map(|_| random.random_range(0..end) as i64).collect()
    }

    /// Of the lab's kind.
    pub(crate) fn tensor(&self, values: &[f32]) -> Tensor<'m, M> {
        self.floats(self.kind, values)
    }

    pub(crate) fn floats(&self, kind: Kind, values: &[f32]) -> Tensor<'m, M> {
        self.input(kind, values.len(), to_bytes(kind, values))
    }

    pub(crate) fn integers(&self, values: &[i64]) -> Tensor<'m, M> {
        let bytes = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        self.input(Kind::Int64, values.len(), bytes)
    }

    pub(crate) fn doubles(&self, values: &[f64]) -> Tensor<'m, M> {
        let bytes = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        self.input(Kind::Float64, values.len(), bytes)
    }

    /// Of the lab's kind, poisoned: what a kernel does not write is not a number.
    pub(crate) fn output(&self, len: usize) -> Tensor<'m, M> {
        self.output_of(self.kind, len)
    }

    pub(crate) fn output_of(&self, kind: Kind, len: usize) -> Tensor<'m, M> {
        self.bytes(kind, len, &vec![0xff; len * kind.bytes()])
    }

    fn input(&self, kind: Kind, len: usize, bytes: Vec<u8>) -> Tensor<'m, M> {
        let mut tensor = self.bytes(kind, len, &bytes);
        tensor.unread = Cell::new(Some(bytes));
        tensor
    }

    fn bytes(&self, kind: Kind, len: usize, bytes: &[u8]) -> Tensor<'m, M> {
        let start = GUARD.len() + self.shift * kind.bytes();
        let mut all = vec![0xff; start];
        all.extend_from_slice(bytes);
        all.extend_from_slice(&GUARD);
        let memory = self.machine.upload(&all);
        Tensor { machine: self.machine, memory, start, len, kind, unread: Cell::new(None) }
    }
}

/// Values on a machine, between guards.
pub(crate) struct Tensor<'m, M: Machine> {
    machine: &'m M,
    memory: M::Memory,
    /// Byte at which the values begin.
    start: usize,
    len: usize,
    kind: Kind,
    /// What it began with, if that is an input's, as long as the test has not read it: what nobody
    /// looks at, no kernel may change.
    unread: Cell<Option<Vec<u8>>>,
}

impl<M: Machine> Tensor<'_, M> {
    pub(crate) fn values(&self) -> DeviceValues {
        let address = self.machine.address(&self.memory) + self.start as u64;
        DeviceValues { pointer: DevicePtr(address), len: self.len, kind: self.kind }
    }

    fn bytes(&self) -> Vec<u8> {
        let all = self.machine.download(&self.memory);
        let end = self.start + self.len * self.kind.bytes();
        let guards = all[..self.start].iter().chain(&all[end..]);
        assert!(guards.copied().all(|byte| byte == 0xff), "a kernel wrote beside its tensor");
        all[self.start..end].to_vec()
    }

    pub(crate) fn read(&self) -> Vec<f32> {
        let bytes = self.bytes();
        self.unread.set(None);
        match self.kind {
            Kind::Float32 => each_part(&bytes, f32::from_ne_bytes),
            Kind::BFloat16 => {
                each_part(&bytes, |part| f32::from_bits(u32::from(u16::from_ne_bytes(part)) << 16))
            }
            Kind::Float64 | Kind::Int64 => panic!("not a kind of activations"),
        }
    }

    pub(crate) fn read_integers(&self) -> Vec<i64> {
        assert_eq!(self.kind, Kind::Int64);
        each_part(&self.bytes(), i64::from_ne_bytes)
    }
}

impl<M: Machine> Drop for Tensor<'_, M> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let bytes = self.bytes(); // Looks at the guards, of inputs too.
            let input = self.unread.take();
            assert!(input.is_none_or(|input| input == bytes), "a kernel wrote into its input");
        }
    }
}

fn each_part<const N: usize, V>(bytes: &[u8], value: impl Fn([u8; N]) -> V) -> Vec<V> {
    bytes.chunks_exact(N).map(|part| value(part.try_into().unwrap())).collect()
}

fn to_bytes(kind: Kind, values: &[f32]) -> Vec<u8> {
    let half = |value: &f32| ((round(Kind::BFloat16, *value).to_bits() >> 16) as u16).to_ne_bytes();
    match kind {
        Kind::Float32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
        Kind::BFloat16 => values.iter().flat_map(half).collect(),
        Kind::Float64 | Kind::Int64 => panic!("not a kind of activations"),
    }
}

/// `value` as `kind` keeps it.
pub(crate) fn round(kind: Kind, value: f32) -> f32 {
    if kind == Kind::Float32 || value.is_nan() {
        return value;
    }
    let bits = value.to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// How far a value may be from the wanted one.
#[derive(Clone, Copy)]
pub(crate) struct Tolerance {
    /// Whatever the value is.
    pub(crate) absolute: f32,
    /// Per size of the value.
    pub(crate) relative: f32,
}

impl Tolerance {
    /// Some roundings of a float32 computation with values of about `size`, and one of `kind`.
    pub(crate) fn of(kind: Kind, size: f32) -> Self {
        let relative = if kind == Kind::BFloat16 { 0.008 } else { 1e-5 };
        Self { absolute: 2e-6 * size, relative }
    }
}

#[track_caller]
pub(crate) fn close(name: &str, found: &[f32], wanted: &[f32], tolerance: Tolerance) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    let wrong = |(_, (found, wanted)): &(usize, (&f32, &f32))| {
        let allowed = tolerance.absolute + tolerance.relative * wanted.abs();
        // Written so that a found NaN is wrong.
        !((*found - *wanted).abs() <= allowed || found == wanted)
    };
    let wrong: Vec<_> = found.iter().zip(wanted).enumerate().filter(wrong).take(10).collect();
    assert!(wrong.is_empty(), "{name}: (place, (found, wanted)): {wrong:?}");
}
