//! Against the kernels' reference, and against numbers that PyTorch computed.

use super::*;
use crate::operations::emulated::emulating;
use crate::parameters::{Layout, VALUE_BYTES};
use kernels::adamw::{Config, Constants, cpu};
use proto::{Mlp, ModelSpec, MuonScale, Norm, Positions, Precision};
use tch::Device;

const SPEC: ModelSpec = ModelSpec {
    vocabulary: 11,
    sequence: 8,
    width: 8,
    layers: 1,
    heads: 2,
    mlp_width: 16,
    mlp: Mlp::Gelu,
    tied: true,
    positions: Positions::Learned,
    norm: Norm::LayerNorm,
};

const ADAMW: AdamW = AdamW {
    learning_rate: 0.01,
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
    clip: None,
};

const LION: Lion =
    Lion { learning_rate: 0.003, beta1: 0.9, beta2: 0.99, weight_decay: 0.1, clip: None };

fn sgd_of(nesterov: bool) -> proto::Optimizer {
    let config =
        Sgd { learning_rate: 0.05, momentum: 0.9, nesterov, weight_decay: 0.1, clip: None };
    proto::Optimizer::Sgd(config)
}

fn muon_of(scale: MuonScale) -> proto::Optimizer {
    proto::Optimizer::Muon(Muon {
        learning_rate: 0.02,
        momentum: 0.95,
        nesterov: true,
        weight_decay: 0.1,
        scale,
        clip: None,
        rest: Rest::AdamW(ADAMW),
    })
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.numel()];
    tensor.copy_data(&mut values, tensor.numel());
    values
}

/// 20 updates of both from the same start.
#[track_caller]
fn check(config: &AdamW) {
    let layout = Layout::of(&SPEC);
    let decayed = layout.decayed_len();
    let bytes = layout.initial_values(5).unwrap();
    let start = bytes.chunks_exact(VALUE_BYTES);
    let mut p: Vec<f32> = start.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
    let parameters = Parameters::new(layout, &bytes, Precision::Float32, Device::Cpu).unwrap();
    let mut optimizer =
        Optimizer::new(&proto::Optimizer::AdamW(config.clone()), &parameters).unwrap();
    for t in 1..=20 {
        let wave = |i: usize| ((i * 31) as f32 + t as f32).sin() * 0.1;
        let gradient: Vec<f32> = (0..p.len()).map(wave).collect();
        let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let learning_rate = config.learning_rate * (1.0 / t as f64);
        let found =
            optimizer.step(&parameters, Tensor::from_slice(&gradient), 1.0 / t as f64, t).unwrap();
        assert!((found.double_value(&[]) - norm).abs() < 1e-5 * norm);

        let scale = config.clip.map_or(1.0, |clip| (clip / (norm + CLIP_EPSILON)).min(1.0));
        for (range, weight_decay) in [(0..decayed, config.weight_decay), (decayed..p.len(), 0.0)] {
            let reference = Config {
                learning_rate,
                beta1: config.beta1,
                beta2: config.beta2,
                epsilon: config.epsilon,
                weight_decay,
                gradient_scale: scale,
            };
            cpu::update(
                &mut p[range.clone()],
                &gradient[range.clone()],
                &mut m[range.clone()],
                &mut v[range],
                &Constants::new(&reference, t),
            )
            .unwrap();
        }
    }
    let moments: Vec<Vec<f32>> = optimizer.moments().map(floats).collect();
    let [first, second] = <[_; 2]>::try_from(moments).unwrap();
    let ours = [floats(parameters.flat()), first, second];
    for (name, found, wanted) in [("p", &ours[0], &p), ("m", &ours[1], &m), ("v", &ours[2], &v)] {
        for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            let error = (found - wanted).abs();
            assert!(error <= 1e-6 + 1e-5 * wanted.abs(), "{name}[{i}]: {found} {wanted}");
        }
    }
}

#[test]
fn it_agrees_with_the_kernel_s_reference() {
    let config = AdamW {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip: Some(0.5),
    };
    check(&config);
    check(&AdamW { clip: None, ..config.clone() });
    check(&AdamW { clip: Some(1e6), weight_decay: 0.0, ..config.clone() });
    check(&AdamW { beta1: 0.95, beta2: 0.98, epsilon: 1e-15, ..config });
}

#[test]
fn a_gradient_of_zeros_does_no_harm() {
    let layout = Layout::of(&SPEC);
    let bytes = layout.initial_values(5).unwrap();
    let parameters = Parameters::new(layout, &bytes, Precision::Float32, Device::Cpu).unwrap();
    let config = AdamW {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-15,
        weight_decay: 0.0,
        clip: Some(1.0),
    };
    let mut optimizer = Optimizer::new(&proto::Optimizer::AdamW(config), &parameters).unwrap();
    let before = floats(parameters.flat());
    let zeros = parameters.flat().zeros_like();
    optimizer.step(&parameters, zeros, 1.0, 1).map(drop).unwrap();
    assert_eq!(floats(parameters.flat()), before);
}

/// As `tests/reference/optimizers.py` has it.
fn wave(count: usize, phase: f64) -> Vec<f32> {
    let place = |i: usize| ((i as f64 * 1.7 + phase).sin() * 4096.0).round_ties_even() / 4096.0;
    (0..count).map(|i| place(i) as f32).collect()
}

/// Numbers of `tests/reference/optimizers.json` for one matrix.
fn reference(matrix: &str, case: &str) -> Vec<f32> {
    let text = include_str!("../../tests/reference/optimizers.json");
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    assert!(json["torch"].as_str().unwrap().starts_with("2.11."));
    let values = json["cases"][matrix]["values"][case].as_array().unwrap();
    values.iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

/// Ten updates of a model whose layer has a wide and a tall matrix, as the reference makes them.
#[track_caller]
fn check_reference(config: &proto::Optimizer, case: &str, tolerance: f32) {
    let spec = ModelSpec { width: 4, heads: 1, mlp_width: 6, ..SPEC };
    let layout = Layout::of(&spec);
    let bytes = layout.initial_values(5).unwrap();
    let parameters = Parameters::new(layout, &bytes, Precision::Float32, Device::Cpu).unwrap();
    let entries = parameters.layout().entries();
    let matrices = [("wide", "layers.0.mlp.down.weight"), ("tall", "layers.0.mlp.up.weight")];
    let matrices = matrices.map(|(matrix, name)| {
        let entry = entries.iter().find(|entry| entry.name == name).unwrap();
        (matrix, entry.start as i64, entry.len as i64)
    });
    let put = |flat: &Tensor, phase: f64| {
        for (_, start, len) in matrices {
            let values = Tensor::from_slice(&wave(len as usize, phase));
            flat.narrow(0, start, len).copy_(&values);
        }
    };
    no_grad(|| put(parameters.flat(), 0.3));
    let mut optimizer = Optimizer::new(config, &parameters).unwrap();
    // PyTorch's, on a processor too.
    optimizer.newton_schulz = Kind::BFloat16;
    for step in 0..10 {
        let gradient = parameters.flat().zeros_like();
        put(&gradient, 1.0 + step as f64);
        let share = 1.0 - step as f64 / 10.0;
        optimizer.step(&parameters, gradient, share, step + 1).map(drop).unwrap();
    }
    for (matrix, start, len) in matrices {
        let found = floats(&parameters.flat().narrow(0, start, len));
        for (i, (found, wanted)) in found.iter().zip(reference(matrix, case)).enumerate() {
            let error = (found - wanted).abs();
            assert!(error <= tolerance, "{case} {matrix}[{i}]: {found} {wanted}");
        }
    }
}

// Goal: PyTorch's own weights after ten updates with a falling rate. Single precision leaves some
// 1e-7; Muon's Newton-Schulz is in bfloat16, whose products processors round in other orders.
#[test]
fn the_optimisers_agree_with_pytorch() {
    check_reference(&proto::Optimizer::AdamW(ADAMW), "adamw", 3e-7);
    check_reference(&sgd_of(false), "sgd", 3e-7);
    check_reference(&sgd_of(true), "sgd_nesterov", 3e-7);
    check_reference(&proto::Optimizer::Lion(LION), "lion", 3e-7);
    for (scale, case) in
        [(MuonScale::Original, "muon_original"), (MuonScale::MatchRmsAdamw, "muon_match_rms_adamw")]
    {
        check_reference(&muon_of(scale), case, 2e-3);
    }
}

// Goal: the iteration itself, without the coarseness of bfloat16.
#[test]
fn the_orthogonal_matrix_is_the_reference_s() {
    for (name, shape) in [("wide", [4, 6]), ("tall", [6, 4])] {
        let matrix = Tensor::from_slice(&wave(24, 1.0)).view(shape);
        let found = floats(&muon::orthogonalise(&matrix, Kind::Float).unwrap().reshape([-1]));
        for (found, wanted) in found.iter().zip(reference(name, "orthogonal")) {
            assert!((found - wanted).abs() < 2e-5, "{name}: {found} {wanted}");
        }
        // All singular values are near one.
        let matrix = Tensor::from_slice(&found).view(shape);
        let short = if name == "wide" { matrix.mm(&matrix.tr()) } else { matrix.tr().mm(&matrix) };
        let trace = short.trace().double_value(&[]);
        assert!((4.0 * 0.45..4.0 * 1.5).contains(&trace), "{trace}");
    }
}

// Goal: Muon moves the layers' matrices and nothing else, and every value is moved by one rule.
#[test]
fn every_value_belongs_to_one_rule() {
    let rest = Lion { learning_rate: 1.0, beta1: 0.9, beta2: 0.9, weight_decay: 0.0, clip: None };
    let config = proto::Optimizer::Muon(Muon {
        learning_rate: 1.0,
        momentum: 0.9,
        nesterov: false,
        weight_decay: 0.0,
        scale: MuonScale::Original,
        clip: None,
        rest: Rest::Lion(rest),
    });
    let layout = Layout::of(&ModelSpec { tied: false, ..SPEC });
    let mut next = 0;
    for (rule, place) in parts(&config, &layout) {
        assert_eq!(place.entries.start, next);
        next = place.entries.end;
        for entry in &layout.entries()[place.entries] {
            let hidden = entry.name.starts_with("layers.") && entry.shape.len() == 2;
            assert_eq!(matches!(rule, Rule::Muon(_)), hidden, "{entry:?}");
        }
    }
    assert_eq!(next, layout.entries().len());
}

// Goal: pieces change nothing, wherever they end: in a tensor, at its end, or where decay ends.
#[test]
fn pieces_are_moved_as_the_whole_is() {
    let layout = Layout::of(&SPEC);
    let bytes = layout.initial_values(5).unwrap();
    let edge = layout.decayed_len() as i64;
    for config in [
        proto::Optimizer::AdamW(AdamW { clip: Some(0.5), ..ADAMW }),
        proto::Optimizer::Lion(LION),
        sgd_of(false),
        sgd_of(true),
    ] {
        let end = |piece: i64| {
            let parameters =
                Parameters::new(layout.clone(), &bytes, Precision::Float32, Device::Cpu).unwrap();
            let mut optimizer = Optimizer::new(&config, &parameters).unwrap();
            optimizer.piece = piece;
            for t in 1..=5 {
                let gradient = Tensor::from_slice(&wave(layout.len(), t as f64));
                optimizer.step(&parameters, gradient, 1.0, t).map(drop).unwrap();
            }
            let all = optimizer.moments().chain([parameters.flat()]);
            all.flat_map(|t| floats(t).into_iter().map(f32::to_bits)).collect::<Vec<_>>()
        };
        let whole = end(i64::MAX);
        for piece in [1, 7, 64, edge - 1, edge, edge + 1] {
            assert!(end(piece) == whole, "{config:?} in pieces of {piece}");
        }
    }
}

// Goal: in bfloat16 the model reads the new values, whoever moved them.
#[test]
fn what_the_model_reads_follows_the_values() {
    let layout = Layout::of(&SPEC);
    let bytes = layout.initial_values(5).unwrap();
    let check = |config: &proto::Optimizer| {
        let parameters =
            Parameters::new(layout.clone(), &bytes, Precision::Bf16, Device::Cpu).unwrap();
        let before = parameters.rounded().unwrap().copy();
        let mut optimizer = Optimizer::new(config, &parameters).unwrap();
        // Several, and an odd number of values each.
        optimizer.piece = 77;
        let gradient = Tensor::from_slice(&wave(layout.len(), 1.0));
        optimizer.step(&parameters, gradient, 1.0, 1).map(drop).unwrap();
        let after = parameters.rounded().unwrap();
        assert_eq!(*after, parameters.flat().to_kind(Kind::BFloat16), "{config:?}");
        assert_ne!(*after, before, "{config:?}");
    };
    let adamw = proto::Optimizer::AdamW(ADAMW);
    emulating(|| check(&adamw));
    let rest = [proto::Optimizer::Lion(LION), sgd_of(false), muon_of(MuonScale::Original)];
    rest.iter().chain([&adamw]).for_each(check);
}
