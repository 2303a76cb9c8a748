//! `config.json` and the architecture that it describes.

use super::error::HfError;
use crate::model::architecture::{
    Angles, Architecture, Biases, Mlp, Norm, Positions, QkNorm, Sizes,
};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

/// A family of models in `transformers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Gpt2,
    Llama,
    Qwen2,
    Qwen3,
}

impl Family {
    const ALL: [Self; 4] = [Self::Gpt2, Self::Llama, Self::Qwen2, Self::Qwen3];

    fn model_type(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class that `transformers` makes of the folder.
    fn class(self) -> &'static str {
        match self {
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The family that computes what `architecture` says.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn of(architecture: &Architecture) -> Result<Self, HfError> {
        let refuse = |what| Err(HfError::NoFamily { what });
        if architecture.embedding_norm {
            return refuse("a normalised embedding");
        }
        if architecture.logit_cap.is_some() {
            return refuse("bounded logits");
        }
        let biases = architecture.biases;
        match (architecture.positions, architecture.norm, architecture.mlp, architecture.qk_norm) {
            (Positions::Learned, Norm::Layer { .. }, Mlp::Gelu, QkNorm::Absent) => {
                let Sizes { width, heads, kv_heads, .. } = architecture.sizes;
                let plain = heads == kv_heads && architecture.head_width * heads == width;
                match (plain, biases == Biases::ALL) {
                    (true, true) => Ok(Self::Gpt2),
                    (false, _) => refuse("learned positions with grouped or widened heads"),
                    (true, false) => refuse("learned positions without biases in linear layers"),
                }
            }
            (Positions::Rotary { .. }, Norm::Rms { .. }, Mlp::SwiGlu, QkNorm::Absent) => {
                match biases {
                    Biases { qkv: true, attention_output: false, mlp: false } => Ok(Self::Qwen2),
                    Biases { qkv, attention_output, .. } if qkv == attention_output => {
                        Ok(Self::Llama)
                    }
                    Biases { .. } => refuse("these biases in linear layers"),
                }
            }
            (Positions::Rotary { .. }, Norm::Rms { .. }, Mlp::SwiGlu, QkNorm::Weighted) => {
                match biases.qkv == biases.attention_output && !biases.mlp {
                    true => Ok(Self::Qwen3),
                    false => refuse("these biases in linear layers"),
                }
            }
            _ => refuse("these positions, norms and MLP together"),
        }
    }
}

/// Keys that say nothing about what a model computes.
const IGNORED: [&str; 38] = [
    "_attn_implementation",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "n_ctx",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
];

/// The family and architecture that `text`, the content of the file at `path`, describes.
///
/// # Errors
/// A key is missing, unknown, or has a value that Brine does not compute.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<(Family, Architecture), HfError> {
    let map = serde_json::from_slice(text)
        .map_err(|source| HfError::Json { path: path.to_owned(), source })?;
    let keys = Keys { path, map, asked: RefCell::new(IGNORED.iter().copied().collect()) };
    let types = Family::ALL.map(Family::model_type);
    let family = Family::ALL
        .into_iter()
        .find(|family| keys.value("model_type") == &json!(family.model_type()))
        .ok_or_else(|| keys.wrong("model_type", types.join(", ")))?;
    let architecture = match family {
        Family::Gpt2 => gpt2(&keys),
        Family::Llama | Family::Qwen2 | Family::Qwen3 => llama(&keys, family),
    }?;
    keys.all_asked(family)?;
    architecture
        .check()
        .map_err(|source| HfError::Architecture { path: path.to_owned(), source })?;
    Ok((family, architecture))
}

fn gpt2(keys: &Keys<'_>) -> Result<Architecture, HfError> {
    let width = keys.count("n_embd")?;
    let heads = keys.count("n_head")?;
    let four_widths = u64::from(width) * 4;
    let sizes = Sizes {
        vocabulary: keys.count("vocab_size")?,
        sequence: keys.count("n_positions")?,
        width,
        layers: keys.count("n_layer")?,
        heads,
        kv_heads: heads,
        mlp_width: keys.count_or("n_inner", four_widths)?,
    };
    keys.one_of("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
    keys.must("scale_attn_weights", true)?;
    for key in ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"]
    {
        keys.must(key, false)?;
    }
    if !width.is_multiple_of(heads) {
        return Err(keys.wrong("n_embd", format!("a multiple of n_head {heads}")));
    }
    Ok(Architecture {
        tied: keys.flag_or("tie_word_embeddings", true)?,
        norm: Norm::Layer { epsilon: keys.number("layer_norm_epsilon")? },
        ..Architecture::gpt2(sizes)
    })
}

fn llama(keys: &Keys<'_>, family: Family) -> Result<Architecture, HfError> {
    let width = keys.count("hidden_size")?;
    let heads = keys.count("num_attention_heads")?;
    let sizes = Sizes {
        vocabulary: keys.count("vocab_size")?,
        sequence: keys.count("max_position_embeddings")?,
        width,
        layers: keys.count("num_hidden_layers")?,
        heads,
        kv_heads: keys.count_or("num_key_value_heads", heads.into())?,
        mlp_width: keys.count("intermediate_size")?,
    };
    keys.one_of("hidden_act", &["silu", "swish"])?;
    let model = match family {
        Family::Qwen2 => Architecture::qwen2(sizes),
        Family::Qwen3 => Architecture::qwen3(sizes),
        Family::Llama | Family::Gpt2 => Architecture::llama(sizes),
    };
    let attention = family != Family::Qwen2 && keys.flag_or("attention_bias", false)?;
    let biases = Biases {
        qkv: model.biases.qkv || attention,
        attention_output: attention,
        mlp: family == Family::Llama && keys.flag_or("mlp_bias", false)?,
    };
    let head_width = match keys.given("head_dim") {
        Some(_) => keys.count("head_dim")?,
        // Qwen3 alone has a default of its own.
        None if family == Family::Qwen3 => 128,
        None if width.is_multiple_of(heads) => width / heads,
        None => {
            let wanted = format!("a multiple of num_attention_heads {heads}, or head_dim given");
            return Err(keys.wrong("hidden_size", wanted));
        }
    };
    if matches!(family, Family::Qwen2 | Family::Qwen3) {
        refuse_window(keys, sizes)?;
    }
    Ok(Architecture {
        head_width,
        tied: keys.flag_or("tie_word_embeddings", false)?,
        positions: Positions::Rotary { base: rotary_base(keys)?, angles: Angles::Single },
        norm: Norm::Rms { epsilon: keys.number("rms_norm_eps")? },
        biases,
        ..model
    })
}

/// Newer files have `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
fn rotary_base(keys: &Keys<'_>) -> Result<f64, HfError> {
    const DEFAULT: f64 = 10_000.0;
    if keys.given("rope_scaling").is_some_and(|scaling| !is_default_rope(scaling)) {
        return Err(keys.wrong("rope_scaling", "null: scaled rotary angles are not computed"));
    }
    let outer = keys.given("rope_theta").map(|_| keys.number("rope_theta")).transpose()?;
    let Some(parameters) = keys.given("rope_parameters") else {
        return Ok(outer.unwrap_or(DEFAULT));
    };
    if !is_default_rope(parameters) {
        let wanted = r#"of rope_type "default" with rope_theta: scaled angles are not computed"#;
        return Err(keys.wrong("rope_parameters", wanted));
    }
    let inner = parameters["rope_theta"].as_f64();
    Ok(inner.or(outer).unwrap_or(DEFAULT))
}

/// Whether the angles are those of the base alone.
fn is_default_rope(rope: &Value) -> bool {
    rope.as_object().is_some_and(|rope| {
        rope.iter().all(|(key, value)| match key.as_str() {
            "rope_type" | "type" => value == "default",
            "rope_theta" => value.is_number(),
            "partial_rotary_factor" => value.as_f64() == Some(1.0),
            _ => false,
        })
    })
}

/// A window as long as the context changes nothing; a shorter one in any layer does.
fn refuse_window(keys: &Keys<'_>, sizes: Sizes) -> Result<(), HfError> {
    let [window, first] = ["sliding_window", "max_window_layers"];
    let window = u64::from(keys.count_or(window, sizes.sequence.into())?);
    let first = keys.count_or(first, 0)?;
    let used = keys.flag_or("use_sliding_window", false)?;
    let slides = match keys.given("layer_types").map(Value::as_array) {
        None => used && first < sizes.layers,
        Some(Some(types)) if types.len() == sizes.layers as usize => {
            types.iter().any(|kind| kind != "full_attention")
        }
        Some(_) => {
            let wanted = format!("a list of {} kinds of attention", sizes.layers);
            return Err(keys.wrong("layer_types", wanted));
        }
    };
    if slides && window < u64::from(sizes.sequence) {
        let wanted = format!(
            "null or at least max_position_embeddings {}: attention over a window is not computed",
            sizes.sequence
        );
        return Err(keys.wrong("sliding_window", wanted));
    }
    Ok(())
}

/// The configuration of `architecture` as a model of `family`.
pub(super) fn describe(family: Family, architecture: &Architecture) -> Value {
    let Sizes { vocabulary, sequence, width, layers, heads, kv_heads, mlp_width } =
        architecture.sizes;
    let epsilon = architecture.norm.epsilon();
    let mut config = match family {
        Family::Gpt2 => json!({
            "n_embd": width, "n_head": heads, "n_layer": layers, "n_positions": sequence,
            "n_inner": mlp_width, "layer_norm_epsilon": epsilon, "activation_function": "gelu_new",
            "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
        }),
        Family::Llama | Family::Qwen2 | Family::Qwen3 => json!({
            "hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers,
            "max_position_embeddings": sequence, "num_key_value_heads": kv_heads,
            "head_dim": architecture.head_width, "intermediate_size": mlp_width,
            "hidden_act": "silu", "rms_norm_eps": epsilon,
        }),
    };
    config["model_type"] = json!(family.model_type());
    config["architectures"] = json!([family.class()]);
    config["vocab_size"] = json!(vocabulary);
    config["tie_word_embeddings"] = json!(architecture.tied);
    config["dtype"] = json!("float32");
    // Defaults of `transformers` name tokens that a small vocabulary does not have.
    for key in ["bos_token_id", "eos_token_id"] {
        config[key] = Value::Null;
    }
    if let Positions::Rotary { base, .. } = architecture.positions {
        // The older key is read by old and new versions.
        config["rope_theta"] = json!(base);
    }
    if matches!(family, Family::Llama | Family::Qwen3) {
        config["attention_bias"] = json!(architecture.biases.qkv);
    }
    if family == Family::Llama {
        config["mlp_bias"] = json!(architecture.biases.mlp);
    }
    config
}

/// The keys of a file, and which of them somebody has asked for.
struct Keys<'a> {
    path: &'a Path,
    map: Map<String, Value>,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl Keys<'_> {
    fn value(&self, key: &'static str) -> &Value {
        self.asked.borrow_mut().insert(key);
        self.map.get(key).unwrap_or(&Value::Null)
    }

    /// The value of a key that is there and not null.
    fn given(&self, key: &'static str) -> Option<&Value> {
        Some(self.value(key)).filter(|value| !value.is_null())
    }

    fn count(&self, key: &'static str) -> Result<u32, HfError> {
        let number = self.value(key).as_u64().and_then(|n| u32::try_from(n).ok());
        number.filter(|&n| n > 0).ok_or_else(|| self.wrong(key, "a positive whole number"))
    }

    fn count_or(&self, key: &'static str, default: u64) -> Result<u32, HfError> {
        match self.given(key) {
            None => u32::try_from(default).map_err(|_| self.wrong(key, "given")),
            Some(value) if value == 0 => Ok(0),
            Some(_) => self.count(key),
        }
    }

    fn number(&self, key: &'static str) -> Result<f64, HfError> {
        self.value(key).as_f64().ok_or_else(|| self.wrong(key, "a number"))
    }

    fn flag_or(&self, key: &'static str, default: bool) -> Result<bool, HfError> {
        match self.given(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    fn must(&self, key: &'static str, wanted: bool) -> Result<(), HfError> {
        match self.flag_or(key, wanted)? == wanted {
            true => Ok(()),
            false => Err(self.wrong(key, wanted.to_string())),
        }
    }

    fn one_of(&self, key: &'static str, wanted: &[&str]) -> Result<(), HfError> {
        match self.value(key).as_str().is_some_and(|value| wanted.contains(&value)) {
            true => Ok(()),
            false => Err(self.wrong(key, wanted.join(" or "))),
        }
    }

    fn wrong(&self, key: &str, wanted: impl Into<String>) -> HfError {
        let found = self.map.get(key).map_or_else(|| "missing".to_owned(), Value::to_string);
        let key = key.to_owned();
        HfError::Config { path: self.path.to_owned(), key, found, wanted: wanted.into() }
    }

    fn all_asked(&self, family: Family) -> Result<(), HfError> {
        let asked = self.asked.borrow();
        match self.map.keys().find(|key| !asked.contains(key.as_str())) {
            None => Ok(()),
            Some(key) => Err(HfError::UnknownKey {
                path: self.path.to_owned(),
                key: key.clone(),
                model_type: family.model_type().to_owned(),
            }),
        }
    }
}
