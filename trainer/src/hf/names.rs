//! Which tensors of `transformers` one of ours is made of. One table serves loading and saving.
//!
//! Ours joins what is multiplied together: queries, keys and values are one matrix, and so are the
//! two of SwiGLU. Rotary positions turn neighbouring values here and values half a head apart
//! there, so the rows of queries and keys change places, which changes no product.

use super::config::Family;
use crate::model::architecture::{Architecture, Sizes};
use crate::parameters::Entry;
use tch::Tensor;

/// One tensor of a Hugging Face folder, which is a block of rows of one of ours.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Part {
    pub(super) name: String,
    /// Shape in the file.
    pub(super) shape: Vec<i64>,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Same,
    /// GPT-2's linear layers are (inputs, outputs).
    Transposed,
    /// Rows of this many heads, each with the first values of all pairs before the second ones.
    Halves {
        heads: i64,
    },
}

impl Part {
    /// The output layer of a file whose model is tied, with the embedding's `shape`.
    pub(super) fn tied_output(shape: &[i64]) -> Self {
        same(OUTPUT.to_owned(), shape.to_vec())
    }

    /// `theirs`, of the part's shape, as a block of ours.
    pub(super) fn to_ours(&self, theirs: &Tensor) -> tch::Result<Tensor> {
        match self.form {
            Form::Same => Ok(theirs.shallow_clone()),
            Form::Transposed => theirs.f_tr(),
            Form::Halves { heads } => exchange(theirs, [heads, 2, self.shape[0] / heads / 2]),
        }
    }

    /// The reverse of [`to_ours`](Self::to_ours).
    pub(super) fn to_theirs(&self, ours: &Tensor) -> tch::Result<Tensor> {
        match self.form {
            Form::Same => Ok(ours.shallow_clone()),
            Form::Transposed => ours.f_tr()?.f_contiguous(),
            Form::Halves { heads } => exchange(ours, [heads, self.shape[0] / heads / 2, 2]),
        }
    }

    /// Rows that it fills of ours.
    pub(super) fn rows(&self) -> i64 {
        match self.form {
            Form::Same | Form::Halves { .. } => self.shape[0],
            Form::Transposed => self.shape[1],
        }
    }
}

/// Rows seen as (`heads`, m, n) become (`heads`, n, m).
fn exchange(x: &Tensor, [heads, m, n]: [i64; 3]) -> tch::Result<Tensor> {
    x.f_reshape([heads, m, n, -1])?.f_transpose(1, 2)?.f_reshape(x.size().as_slice())
}

/// Name of the output layer, which a tied model's file may have too.
pub(super) const OUTPUT: &str = "lm_head.weight";
/// GPT-2's files have this before every name but the output's, or have it nowhere.
pub(super) const GPT2_PREFIX: &str = "transformer.";

/// Tables that older versions wrote beside the weights.
pub(super) fn is_derived(name: &str) -> bool {
    [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The parts of `entry`, from its first row to its last.
pub(super) fn parts(family: Family, architecture: &Architecture, entry: &Entry) -> Vec<Part> {
    let (layer, rest) = match entry.name.strip_prefix("layers.").and_then(|n| n.split_once('.')) {
        Some((layer, rest)) => (layer, rest),
        None => ("", entry.name.as_str()),
    };
    let (module, kind) = rest.rsplit_once('.').unwrap_or((rest, ""));
    match family {
        Family::Gpt2 => vec![gpt2(layer, module, kind, entry)],
        Family::Llama | Family::Qwen2 | Family::Qwen3 => {
            llama(architecture, layer, module, kind, entry)
        }
    }
}

fn gpt2(layer: &str, module: &str, kind: &str, entry: &Entry) -> Part {
    let (theirs, linear) = match module {
        "token_embedding" => ("wte", false),
        "position_embedding" => ("wpe", false),
        "attention_norm" => ("ln_1", false),
        "attention.qkv" => ("attn.c_attn", true),
        "attention.output" => ("attn.c_proj", true),
        "mlp_norm" => ("ln_2", false),
        "mlp.up" => ("mlp.c_fc", true),
        "mlp.down" => ("mlp.c_proj", true),
        "final_norm" => ("ln_f", false),
        "output" => return same(OUTPUT.to_owned(), entry.shape.clone()),
        other => unreachable!("GPT-2 has no module {other}"),
    };
    let block = if layer.is_empty() { String::new() } else { format!("h.{layer}.") };
    let name = format!("{GPT2_PREFIX}{block}{theirs}.{kind}");
    match linear && kind == "weight" {
        true => Part {
            name,
            shape: entry.shape.iter().rev().copied().collect(),
            form: Form::Transposed,
        },
        false => same(name, entry.shape.clone()),
    }
}

fn llama(
    architecture: &Architecture,
    layer: &str,
    module: &str,
    kind: &str,
    entry: &Entry,
) -> Vec<Part> {
    let Sizes { heads, kv_heads, .. } = architecture.sizes;
    let [heads, kv_heads, head] = [heads, kv_heads, architecture.head_width].map(i64::from);
    let part = |name: &str, rows: i64, form: Form| {
        let mut shape = entry.shape.clone();
        shape[0] = rows;
        Part { name: format!("model.layers.{layer}.{name}.{kind}"), shape, form }
    };
    let rows = entry.shape[0];
    match module {
        "token_embedding" => {
            vec![same("model.embed_tokens.weight".to_owned(), entry.shape.clone())]
        }
        "final_norm" => vec![same("model.norm.weight".to_owned(), entry.shape.clone())],
        "output" => vec![same(OUTPUT.to_owned(), entry.shape.clone())],
        "attention_norm" => vec![part("input_layernorm", rows, Form::Same)],
        "attention.qkv" => vec![
            part("self_attn.q_proj", heads * head, Form::Halves { heads }),
            part("self_attn.k_proj", kv_heads * head, Form::Halves { heads: kv_heads }),
            part("self_attn.v_proj", kv_heads * head, Form::Same),
        ],
        "attention.q_norm" => vec![part("self_attn.q_norm", rows, Form::Halves { heads: 1 })],
        "attention.k_norm" => vec![part("self_attn.k_norm", rows, Form::Halves { heads: 1 })],
        "attention.output" => vec![part("self_attn.o_proj", rows, Form::Same)],
        "mlp_norm" => vec![part("post_attention_layernorm", rows, Form::Same)],
        "mlp.gate_up" => vec![
            part("mlp.gate_proj", rows / 2, Form::Same),
            part("mlp.up_proj", rows / 2, Form::Same),
        ],
        "mlp.down" => vec![part("mlp.down_proj", rows, Form::Same)],
        other => unreachable!("Llama has no module {other}"),
    }
}

fn same(name: String, shape: Vec<i64>) -> Part {
    Part { name, shape, form: Form::Same }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_a_way_back() {
        let theirs = Tensor::arange(24, (tch::Kind::Float, tch::Device::Cpu)).view([8, 3]);
        for form in [Form::Same, Form::Transposed, Form::Halves { heads: 2 }] {
            let part = Part { name: String::new(), shape: vec![8, 3], form };
            let ours = part.to_ours(&theirs).unwrap();
            assert_eq!(ours.size()[0], part.rows(), "{form:?}");
            assert_eq!(part.to_theirs(&ours).unwrap(), theirs, "{form:?}");
        }
    }

    // Values 0 1 | 2 3 of a head of four are the pairs (0, 2) and (1, 3).
    #[test]
    fn halves_become_neighbours() {
        let theirs = Tensor::from_slice(&[0i64, 1, 2, 3, 10, 11, 12, 13]);
        let form = Form::Halves { heads: 2 };
        let part = Part { name: String::new(), shape: vec![8], form };
        let ours = Vec::<i64>::try_from(part.to_ours(&theirs).unwrap()).unwrap();
        assert_eq!(ours, [0, 2, 1, 3, 10, 12, 11, 13]);
    }
}
