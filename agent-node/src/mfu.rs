//! Model FLOPs utilisation: counted operations per second over what the GPU could do at most.

use proto::Precision;

/// A kind of GPU and its dense peaks in FLOP/s.
struct Card {
    /// Names that NVML gives it, whole: a slice of a GPU has its name in front.
    names: &'static [&'static str],
    /// Of bfloat16 products summed in float32.
    bf16: f64,
    /// Of float32 outside of the tensor cores, where libtorch multiplies it unless it is told that
    /// fewer digits will do.
    float32: f64,
}

/// Of NVIDIA's data sheets of each product; those give bfloat16 with sparsity, which is twice as
/// much. A100 (2021), A10, A40 (2021), L4, L40S (2023), H100 (2023), H200 (2024), B200 (2025).
const CARDS: [Card; 9] = [
    Card {
        names: &[
            "NVIDIA A100-SXM4-40GB",
            "NVIDIA A100-SXM4-80GB",
            "NVIDIA A100-PCIE-40GB",
            "NVIDIA A100 80GB PCIe",
        ],
        bf16: 312e12,
        float32: 19.5e12,
    },
    Card { names: &["NVIDIA A10"], bf16: 125e12, float32: 31.2e12 },
    Card { names: &["NVIDIA A40"], bf16: 149.7e12, float32: 37.4e12 },
    Card { names: &["NVIDIA L4"], bf16: 121e12, float32: 30.3e12 },
    Card { names: &["NVIDIA L40S"], bf16: 362.05e12, float32: 91.6e12 },
    Card { names: &["NVIDIA H100 80GB HBM3", "NVIDIA H200"], bf16: 989.4e12, float32: 66.9e12 },
    Card { names: &["NVIDIA H100 PCIe"], bf16: 756e12, float32: 51e12 },
    Card { names: &["NVIDIA H100 NVL", "NVIDIA H200 NVL"], bf16: 835.5e12, float32: 60e12 },
    Card { names: &["NVIDIA B200"], bf16: 2_250e12, float32: 75e12 },
];

/// The most FLOP/s of the GPU of this product name; `None` for one that is not known, because a
/// share of a wrong peak is worse than none.
pub(crate) fn peak(name: &str, precision: Precision) -> Option<f64> {
    let card = CARDS.iter().find(|card| card.names.contains(&name))?;
    Some(match precision {
        Precision::Bf16 => card.bf16,
        Precision::Float32 => card.float32,
    })
}

/// What turns a training's tokens per second into its MFU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    /// Counted operations of one token.
    pub(crate) flops_per_token: f64,
    /// Of the GPU, in FLOP/s.
    pub(crate) peak: f64,
}

impl Scale {
    /// Share of the peak at this rate, whole attention matrices counted
    /// ([`ModelSpec::training_flops`](proto::ModelSpec::training_flops)).
    pub(crate) fn mfu(self, tokens_per_second: f64) -> f64 {
        self.flops_per_token * tokens_per_second / self.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_that_of_the_card_and_the_precision() {
        for (name, bf16, float32) in [
            ("NVIDIA H200", Some(989.4e12), Some(66.9e12)),
            ("NVIDIA H100 80GB HBM3", Some(989.4e12), Some(66.9e12)),
            ("NVIDIA H100 PCIe", Some(756e12), Some(51e12)),
            ("NVIDIA A100-SXM4-80GB", Some(312e12), Some(19.5e12)),
            ("NVIDIA L4", Some(121e12), Some(30.3e12)),
            // A slice, a card that nobody entered, and nothing.
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
            ("NVIDIA GeForce RTX 9090", None, None),
            ("", None, None),
        ] {
            let found = [Precision::Bf16, Precision::Float32].map(|kind| peak(name, kind));
            assert_eq!(found, [bf16, float32], "{name}");
        }
    }

    #[test]
    fn no_name_stands_twice_and_tensor_cores_are_faster() {
        let mut names: Vec<&str> = CARDS.iter().flat_map(|card| card.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(CARDS.iter().all(|card| card.bf16 > 2.0 * card.float32));
    }

    #[test]
    fn half_of_the_peak_is_half() {
        let scale = Scale { flops_per_token: 1e9, peak: 1e15 };
        assert_eq!(scale.mfu(5e5), 0.5);
    }
}
