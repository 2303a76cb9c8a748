//! Folders of Hugging Face.

use crate::{FAMILIES, check, folder, reference};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::Device;
use trainer::hf::{self, HfError, SHARD_BYTES};
use trainer::model::{Architecture, Model, Sizes};
use trainer::parameters::{Layout, Parameters};
use trainer::tokenizer::Tokenizer;

/// Type, shape and bytes by name.
type Weights = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn weights(path: &Path) -> Weights {
    let content = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&content).unwrap();
    let tensor = |(name, view): (&str, TensorView<'_>)| {
        (name.to_owned(), (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    tensors.iter().map(tensor).collect()
}

fn write_weights(path: &Path, weights: &Weights) {
    let mut views = vec![];
    for (name, (dtype, shape, bytes)) in weights {
        views.push((name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    }
    // A file is replaced and not rewritten: a map of the old one may be open.
    let content = safetensors::serialize(views, None).unwrap();
    fs::remove_file(path).unwrap_or_default();
    fs::write(path, content).unwrap();
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

/// The error of loading `folder`, with the folder's own path left out.
fn refusal(folder: &Path) -> String {
    let error = hf::load(folder, Device::Cpu).unwrap_err();
    error.to_string().replace(&format!("{}/", folder.display()), "")
}

#[test]
fn a_tokenizer_is_saved_with_its_model() {
    const WORDS: &str = r#"{
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"to": 0, "be": 1, "?": 2}, "unk_token": "?"}
    }"#;
    let (outer, original) = folder(FAMILIES[0]);
    fs::write(original.join("tokenizer.json"), WORDS).unwrap();
    let (parameters, model) = hf::load(&original, Device::Cpu).unwrap();
    let tokenizer = Tokenizer::load(&original, 3).unwrap();
    let copy = outer.path().join("copy");
    hf::save(&copy, &model, &parameters, Some(&tokenizer), SHARD_BYTES).unwrap();
    let read = Tokenizer::load(&copy, 3).unwrap();
    assert_eq!(read.encode("to be or").unwrap(), [0, 1, 2]);
    assert_eq!(fs::read_to_string(copy.join("tokenizer.json")).unwrap(), WORDS);
}

#[test]
fn a_saved_folder_is_the_loaded_one() {
    for name in FAMILIES {
        let (outer, original) = folder(name);
        let (parameters, model) = hf::load(&original, Device::Cpu).unwrap();
        for (copy, shard_bytes) in [("whole", SHARD_BYTES), ("shards", 3_000)] {
            let copy = outer.path().join(copy);
            hf::save(&copy, &model, &parameters, None, shard_bytes).unwrap();
            let mut saved = Weights::new();
            let mut files = 0;
            for entry in fs::read_dir(&copy).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|e| e == "safetensors") {
                    files += 1;
                    saved.extend(weights(&path));
                }
            }
            assert_eq!(files > 1, shard_bytes < SHARD_BYTES, "{name}");
            assert_eq!(saved, weights(&original.join("model.safetensors")), "{name}");
            let (loaded, again) = hf::load(&copy, Device::Cpu).unwrap();
            assert_eq!(again.architecture(), model.architecture());
            assert_eq!(loaded.flat(), parameters.flat());
            check(name, &(loaded, again));
        }
        assert!(!outer.path().join("whole.partial").exists());
    }
}

#[test]
fn weights_of_16_bits_are_read() {
    let (_outer, folder) = folder("llama");
    let path = folder.join("model.safetensors");
    let mut all = weights(&path);
    let (dtype, _, bytes) = all.get_mut("model.norm.weight").unwrap();
    // A float32's upper half is the bfloat16 below it.
    *bytes = bytes.chunks_exact(4).flat_map(|b| [b[2], b[3]]).collect();
    *dtype = Dtype::BF16;
    write_weights(&path, &all);
    let (parameters, _) = hf::load(&folder, Device::Cpu).unwrap();
    let last = parameters.layout().entries().iter().find(|e| e.name == "final_norm.weight");
    let last = last.unwrap();
    let read = parameters.flat().narrow(0, last.start as i64, last.len as i64);
    let read = Vec::<f32>::try_from(read).unwrap();
    for (value, b) in read.iter().zip(all["model.norm.weight"].2.chunks_exact(2)) {
        assert_eq!(value.to_le_bytes(), [0, 0, b[0], b[1]]);
    }
}

// Older files of GPT-2 have no prefix and carry the causal mask.
#[test]
fn files_of_older_versions_are_read() {
    let (_outer, folder) = folder("gpt2");
    let path = folder.join("model.safetensors");
    let bare = |name: String| name.trim_start_matches("transformer.").to_owned();
    let mut all: Weights =
        weights(&path).into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
    all.insert("h.0.attn.bias".to_owned(), (Dtype::U8, vec![2, 2], vec![1, 0, 1, 1]));
    write_weights(&path, &all);
    check("gpt2", &hf::load(&folder, Device::Cpu).unwrap());

    let (_outer, folder) = crate::folder("llama-tied");
    let path = folder.join("model.safetensors");
    let mut all = weights(&path);
    all.insert("lm_head.weight".to_owned(), all["model.embed_tokens.weight"].clone());
    write_weights(&path, &all);
    edit_json(&folder.join("config.json"), |config| {
        let rope = config.as_object_mut().unwrap().remove("rope_parameters").unwrap();
        config["rope_theta"] = rope["rope_theta"].clone();
        config["rope_scaling"] = Value::Null;
    });
    check("llama-tied", &hf::load(&folder, Device::Cpu).unwrap());

    all.get_mut("lm_head.weight").unwrap().2[3] ^= 1;
    write_weights(&path, &all);
    assert!(refusal(&folder).starts_with("model.safetensors: config.json ties"));
}

#[test]
fn wrong_weights_are_refused_by_name() {
    let check = |edit: &dyn Fn(&mut Weights), text: &str| {
        let (_outer, folder) = folder("llama");
        let path = folder.join("model.safetensors");
        let mut all = weights(&path);
        edit(&mut all);
        write_weights(&path, &all);
        assert_eq!(refusal(&folder), text);
    };
    const K: &str = "model.layers.1.self_attn.k_proj.weight";
    check(
        &|all| drop(all.remove(K)),
        "model.safetensors has no tensor model.layers.1.self_attn.k_proj.weight; the model wants \
         it with shape [8, 16]",
    );
    check(
        &|all| drop(all.insert("extra".to_owned(), all[K].clone())),
        "model.safetensors has tensor extra of shape [8, 16], which the model of config.json has \
         not",
    );
    check(
        &|all| all.get_mut(K).unwrap().1 = vec![16, 8],
        "model.safetensors: tensor model.layers.1.self_attn.k_proj.weight has shape [16, 8], \
         config.json wants [8, 16]",
    );
    check(
        &|all| all.get_mut(K).unwrap().0 = Dtype::I32,
        "model.safetensors: tensor model.layers.1.self_attn.k_proj.weight is of type I32, it must \
         be F32, F16 or BF16",
    );
    for value in [f32::NAN, f32::INFINITY] {
        check(
            &|all| all.get_mut(K).unwrap().2[20..24].copy_from_slice(&value.to_le_bytes()),
            "model.safetensors: tensor model.layers.1.self_attn.k_proj.weight of shape [8, 16] \
             has 1 values that are not finite, the first at place 5",
        );
    }
}

#[test]
fn wrong_configurations_are_refused_by_key() {
    let check = |name: &str, edit: &dyn Fn(&mut Value), text: &str| {
        let (_outer, folder) = folder(name);
        edit_json(&folder.join("config.json"), edit);
        assert_eq!(refusal(&folder), format!("config.json: {text}"));
    };
    check(
        "llama",
        &|c| c["model_type"] = json!("mamba"),
        "model_type is \"mamba\", it must be gpt2, llama, qwen2, qwen3",
    );
    check(
        "llama",
        &|c| drop(c.as_object_mut().unwrap().remove("hidden_size")),
        "hidden_size is missing, it must be a positive whole number",
    );
    check(
        "llama",
        &|c| c["num_hidden_layers"] = json!(-2),
        "num_hidden_layers is -2, it must be a positive whole number",
    );
    check(
        "llama",
        &|c| c["hidden_act"] = json!("gelu"),
        "hidden_act is \"gelu\", it must be silu or swish",
    );
    check(
        "llama",
        &|c| c["rope_parameters"] = json!({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}),
        "rope_parameters is {\"factor\":4.0,\"rope_theta\":10000.0,\"rope_type\":\"yarn\"}, it \
         must be of rope_type \"default\" with rope_theta: scaled angles are not computed",
    );
    check(
        "llama",
        &|c| c["rope_scaling"] = json!({"type": "linear", "factor": 2.0}),
        "rope_scaling is {\"factor\":2.0,\"type\":\"linear\"}, it must be null: scaled rotary \
         angles are not computed",
    );
    check(
        "qwen2",
        &|c| {
            c["use_sliding_window"] = json!(true);
            c["sliding_window"] = json!(8);
            c["layer_types"][1] = json!("sliding_attention");
        },
        "sliding_window is 8, it must be null or at least max_position_embeddings 32: attention \
         over a window is not computed",
    );
    check(
        "gpt2",
        &|c| c["scale_attn_by_inverse_layer_idx"] = json!(true),
        "scale_attn_by_inverse_layer_idx is true, it must be false",
    );
    check(
        "qwen3",
        &|c| c["num_experts"] = json!(8),
        "num_experts is not known for a model of type qwen3 and may change what it computes; if \
         it does not, remove it from the file",
    );
    check(
        "llama",
        &|c| c["num_key_value_heads"] = json!(3),
        "heads is 4, it must be a multiple of kv_heads 3",
    );
}

#[test]
fn wrong_files_are_refused_by_path() {
    let (outer, folder) = folder("llama");
    let weights = folder.join("model.safetensors");
    let content = fs::read(&weights).unwrap();
    let replace = |path: &PathBuf, content: &[u8]| {
        fs::remove_file(path).unwrap_or_default();
        fs::write(path, content).unwrap();
    };
    replace(&weights, &content[..content.len() - 1]);
    assert_eq!(refusal(&folder), "model.safetensors is not a whole file of safetensors");
    replace(&weights, b"");
    assert!(refusal(&folder).contains("model.safetensors"));
    fs::remove_file(&weights).unwrap();
    assert!(refusal(&folder).contains("has neither model.safetensors nor"));

    let index = folder.join("model.safetensors.index.json");
    replace(&index, br#"{"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}"#);
    assert_eq!(
        refusal(&folder),
        "model.safetensors.index.json: tensor lm_head.weight is said to be in \
         \"../elsewhere.safetensors\", which is not a file's name"
    );
    replace(&index, br#"{"weight_map": {"lm_head.weight": "one.safetensors"}}"#);
    assert_eq!(refusal(&folder), "cannot read one.safetensors");
    replace(&index, b"{}");
    assert_eq!(refusal(&folder), "model.safetensors.index.json is not valid");

    replace(&folder.join("config.json"), b"{");
    assert_eq!(refusal(&folder), "config.json is not valid");
    replace(&folder.join("config.json"), &vec![b' '; 2 << 20]);
    assert_eq!(refusal(&folder), "config.json has 2097152 bytes, at most 1048576 are read");
    assert_eq!(refusal(&outer.path().join("nothing")), "cannot read config.json");
}

#[test]
fn only_what_a_family_computes_and_no_existing_folder_is_written() {
    let (outer, folder) = folder("llama");
    let (parameters, model) = hf::load(&folder, Device::Cpu).unwrap();
    let error = hf::save(&folder, &model, &parameters, None, SHARD_BYTES).unwrap_err();
    assert!(matches!(error, HfError::Exists { .. }), "{error}");

    let new = outer.path().join("new");
    let speedrun = reference("speedrun").model(Path::new("")).unwrap();
    let error = hf::save(&new, &speedrun.1, &speedrun.0, None, SHARD_BYTES).unwrap_err();
    assert!(error.to_string().contains("has a normalised embedding"), "{error}");

    let _ = tch::no_grad(|| parameters.flat().narrow(0, 3, 1).fill_(f64::NAN));
    let error = hf::save(&new, &model, &parameters, None, SHARD_BYTES).unwrap_err();
    assert!(error.to_string().contains("model.embed_tokens.weight of shape [17, 16]"), "{error}");
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "nothing is left");
}

// A trial's decoder with Llama's parts is a Llama.
#[test]
fn a_trial_s_model_is_saved_as_a_llama() {
    let spec = proto::ModelSpec {
        vocabulary: 17,
        sequence: 16,
        width: 16,
        layers: 2,
        heads: 2,
        mlp_width: 24,
        mlp: proto::Mlp::SwiGlu,
        tied: false,
        positions: proto::Positions::Rotary,
        norm: proto::Norm::RmsNorm,
    };
    let layout = Layout::of(&spec);
    let values = layout.initial_values(1).unwrap();
    let parameters =
        Parameters::new(layout, &values, proto::Precision::Float32, Device::Cpu).unwrap();
    let model = Model::new(&spec, &parameters).unwrap();
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    hf::save(&folder, &model, &parameters, None, SHARD_BYTES).unwrap();
    let (_, loaded) = hf::load(&folder, Device::Cpu).unwrap();
    let sizes = Sizes { ..loaded.architecture().sizes };
    assert_eq!(sizes, Architecture::from(&spec).sizes);
    let tokens = tch::Tensor::from_slice(&[3i64, 1, 4, 1, 5]).view([1, 5]);
    let change = tch::no_grad(|| model.logits(&tokens).unwrap() - loaded.logits(&tokens).unwrap());
    assert!(change.abs().max().double_value(&[]) < 1e-6);
}
