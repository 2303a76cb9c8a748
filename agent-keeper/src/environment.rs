//! What the environment of a trial's process says about its devices and its gang.

use crate::order::Order;
use proto::Devices;
use std::collections::BTreeMap;

/// What a training tells glibc: to keep what it frees, because the next step wants as much again,
/// and to ask for huge pages. By itself glibc gives the heap's end back after every backward pass,
/// and the next step faults it in again page by page: 10 % of the time of a model 128 wide. Tensors
/// of 32 MiB and more stay outside of the heap: in it they took twice the memory. Sizes in bytes.
const HEAP: [(&str, &str); 4] = [
    ("MALLOC_MMAP_THRESHOLD_", "33554432"),
    ("MALLOC_TRIM_THRESHOLD_", "17179869184"),
    ("MALLOC_TOP_PAD_", "16777216"),
    ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
];

/// The trial that a process belongs to, by id.
pub const TRIAL: &str = "BRINE_TRIAL";
/// Which attempt of it, from 1.
pub const ATTEMPT: &str = "BRINE_ATTEMPT";
/// Which member of it; 0 where there is one.
pub const RANK: &str = "BRINE_RANK";

/// What every trial's process finds, whatever its runner.
pub fn variables(order: &Order) -> BTreeMap<&'static str, String> {
    let threads = threads(&order.devices).to_string();
    let mut variables = BTreeMap::from([
        (TRIAL, order.key.trial.to_string()),
        (ATTEMPT, order.key.attempt.to_string()),
        (RANK, order.key.rank.to_string()),
        ("OMP_NUM_THREADS", threads.clone()),
        ("MKL_NUM_THREADS", threads),
        // An empty list hides all GPUs from a trial that leased none.
        ("CUDA_VISIBLE_DEVICES", numbers(&order.devices.gpus)),
        // NVML counts in this order, the CUDA runtime by speed unless told.
        ("CUDA_DEVICE_ORDER", "PCI_BUS_ID".to_owned()),
        // cuBLAS repeats its sums bit by bit only with a workspace of fixed size.
        ("CUBLAS_WORKSPACE_CONFIG", ":4096:8".to_owned()),
    ]);
    if order.spec.runner.is_training() {
        variables.extend(HEAP.map(|(name, value)| (name, value.to_owned())));
    }
    if order.devices.gpu_share_milli > 0 {
        let share = f64::from(order.devices.gpu_share_milli) / f64::from(Devices::WHOLE_MILLI);
        variables.insert("BRINE_GPU_SHARE", share.to_string());
    }
    if let Some(gang) = &order.gang {
        variables.extend([
            ("MASTER_ADDR", gang.master_addr.clone()),
            ("MASTER_PORT", gang.master_port.to_string()),
            ("RANK", order.key.rank.to_string()),
            ("WORLD_SIZE", gang.world_size.to_string()),
            // Each member sees only the GPUs that it leased, so its own is always the first.
            ("LOCAL_RANK", "0".to_owned()),
        ]);
    }
    variables
}

/// Threads that a process on these devices should use. Leases of one trial differ in it when its
/// recipe names alternatives, so the devices count and not what the trial asked for first.
pub fn threads(devices: &Devices) -> u32 {
    u32::try_from(devices.cpus.len()).unwrap_or(u32::MAX).max(1)
}

/// Device numbers as environment variables want them.
pub fn numbers(devices: &[u32]) -> String {
    let numbers: Vec<String> = devices.iter().map(u32::to_string).collect();
    numbers.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::tests::order;
    use agent_core::Gang;

    #[track_caller]
    fn check(order: &Order, expected: &[(&str, Option<&str>)]) {
        let variables = variables(order);
        for (name, value) in expected {
            assert_eq!(variables.get(name).map(String::as_str), *value, "{name}");
        }
    }

    #[test]
    fn threads_and_gpus_are_those_of_the_lease() {
        let mut order = order();
        order.devices = Devices { cpus: vec![4, 5, 6], gpus: vec![2, 0], gpu_share_milli: 0 };
        check(
            &order,
            &[
                ("OMP_NUM_THREADS", Some("3")),
                ("CUDA_VISIBLE_DEVICES", Some("2,0")),
                ("BRINE_TRIAL", Some("0123456789abcdef")),
                ("BRINE_ATTEMPT", Some("1")),
                ("BRINE_RANK", Some("0")),
                ("BRINE_GPU_SHARE", None),
                ("RANK", None),
            ],
        );
        order.devices = Devices { gpus: vec![1], gpu_share_milli: 250, ..Devices::default() };
        check(
            &order,
            &[
                ("OMP_NUM_THREADS", Some("1")),
                ("CUDA_VISIBLE_DEVICES", Some("1")),
                ("BRINE_GPU_SHARE", Some("0.25")),
            ],
        );
    }

    #[test]
    fn a_training_keeps_its_heap_and_a_program_has_its_own_way() {
        let mut order = order();
        let zeros = "0".repeat(64);
        let training = format!(
            r#"{{"train": {{"numerics": 2, "model": {{"vocabulary": 256, "sequence": 8, "width": 8,
            "layers": 1, "heads": 1, "mlp_width": 8, "mlp": "gelu", "tied": true,
            "positions": "learned", "norm": "rms_norm"}}, "data": {{"text": {{"blob": "{zeros}",
            "bytes": 7}}, "format": "bytes", "held_out": 0.1}}, "batch": 1, "steps": 1,
            "optimizer": {{"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.9, "epsilon": 1e-8,
            "weight_decay": 0.0, "clip": null}}, "schedule": {{"warmup": 0.1, "decay": 0.2}},
            "validation": {{"every_steps": 0, "tokens": 8}}}}}}"#
        );
        check(&order, &[("MALLOC_TRIM_THRESHOLD_", None), ("GLIBC_TUNABLES", None)]);
        order.spec.runner = serde_json::from_str(&training).unwrap();
        check(
            &order,
            &[
                ("MALLOC_TRIM_THRESHOLD_", Some("17179869184")),
                ("GLIBC_TUNABLES", Some("glibc.malloc.hugetlb=1")),
            ],
        );
    }

    #[test]
    fn a_member_of_a_gang_finds_the_others_as_torch_distributed_wants_it() {
        let mut order = order();
        order.key.rank = 1;
        let master_addr = "gpu-7".to_owned();
        order.gang = Some(Gang { world_size: 4, master_addr, master_port: 29_500 });
        check(
            &order,
            &[
                ("MASTER_ADDR", Some("gpu-7")),
                ("MASTER_PORT", Some("29500")),
                ("RANK", Some("1")),
                ("WORLD_SIZE", Some("4")),
                ("LOCAL_RANK", Some("0")),
            ],
        );
    }
}
