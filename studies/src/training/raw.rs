//! Sections that recipes with Brine's own trainer share, as they are written. The defaults are
//! those of a byte-level miniature on two CPU cores.

use super::checks::{
    LAYERS_MAX, MLP_WIDTH_MAX, SEQUENCE_MAX, WIDTH_MAX, between, positive, within,
};
use super::spec::{Architecture, Data, MuonRest};
use crate::recipe::{DataWanted, Mistakes, Path, RecipeError, all};
use proto::{
    DecayShape, Mlp, ModelSpec, MuonScale, Norm, Packing, Positions, Precision, Scoring,
    TokenFormat, Validation,
};
use serde::Deserialize;

/// Most file patterns.
const PATTERNS_MAX: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawData {
    pub(super) files: Option<Patterns>,
    pub(super) held_out: Option<f64>,
    pub(super) format: Option<TokenFormat>,
    pub(super) packing: Option<Packing>,
    tokenizer: Option<String>,
    end_of_document: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawModel {
    pub(super) mlp: Option<Mlp>,
    pub(super) tied: Option<bool>,
    pub(super) positions: Option<Positions>,
    pub(super) norm: Option<Norm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawOptimizer {
    pub(super) kind: Option<RawRule>,
    pub(super) beta1: Option<f64>,
    pub(super) epsilon: Option<f64>,
    pub(super) weight_decay: Option<f64>,
    pub(super) clip: Option<f64>,
    pub(super) warmup: Option<f64>,
    pub(super) decay: Option<f64>,
    pub(super) decay_shape: Option<DecayShape>,
    pub(super) decay_to: Option<f64>,
    pub(super) momentum: Option<f64>,
    pub(super) nesterov: Option<bool>,
    pub(super) muon: Option<RawMuon>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawRule {
    AdamW,
    Lion,
    Sgd,
    Muon,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMuon {
    pub(super) scale: Option<MuonScale>,
    pub(super) rate: Option<f64>,
    pub(super) rest: Option<MuonRest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTraining {
    pub(super) accumulation: Option<u32>,
    pub(super) ema: Option<f64>,
    pub(super) precision: Option<Precision>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawValidation {
    pub(super) tokens: Option<u64>,
    pub(super) every_steps: Option<u64>,
    pub(super) scoring: Option<Scoring>,
    pub(super) target: Option<f64>,
}

/// One file pattern or a list of them.
#[derive(Debug)]
pub(crate) struct Patterns(Vec<String>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Patterns;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a file pattern such as \"corpus/*.txt\", or a list of them")
            }
            fn visit_str<E>(self, text: &str) -> Result<Patterns, E> {
                Ok(Patterns(vec![text.to_owned()]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut items: A,
            ) -> Result<Patterns, A::Error> {
                let mut patterns = Vec::new();
                while let Some(pattern) = items.next_element()? {
                    patterns.push(pattern);
                }
                Ok(Patterns(patterns))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Patterns {
    pub(crate) fn check(self, at: &Path) -> Result<Vec<String>, RecipeError> {
        let Self(patterns) = self;
        if patterns.is_empty() || patterns.len() > PATTERNS_MAX {
            let message = format!("needs 1 to {PATTERNS_MAX} patterns, found {}", patterns.len());
            return Err(RecipeError::new(at, message));
        }
        if patterns.iter().any(|pattern| pattern.trim().is_empty()) {
            return Err(RecipeError::new(at, "a file pattern must not be empty"));
        }
        Ok(patterns)
    }
}

impl RawData {
    /// The tokenizer belongs to the format, and the end of documents to both.
    fn check_tokenizer(&self, format: TokenFormat, at: &Path) -> Result<(), RecipeError> {
        let path = |key: &str| at.key(key);
        let refused = |at: &Path, message: &str, hint: &str| {
            let values = ["format", "tokenizer", "end_of_document"].map(path);
            Err(RecipeError::new(at, message).about(values).hint(hint))
        };
        let tokenizer = self.tokenizer.as_deref();
        if tokenizer.is_some_and(|path| path.rsplit('/').next().is_none_or(str::is_empty)) {
            return Err(RecipeError::new(&path("tokenizer"), "is not the path of a file")
                .hint("name a tokenizer.json"));
        }
        match (format, tokenizer, &self.end_of_document) {
            (TokenFormat::Text, None, _) => refused(
                at,
                "the format `text` needs the key `tokenizer`",
                "name a tokenizer.json, or use the format `bytes`",
            ),
            (TokenFormat::Bytes | TokenFormat::U16 | TokenFormat::Shards, Some(_), _) => refused(
                &path("tokenizer"),
                "is for the formats `text` and `jsonl`",
                "leave it out; the other formats are tokens already",
            ),
            (TokenFormat::Jsonl, Some(_), None) => refused(
                at,
                "a tokenizer for jsonl needs the key `end_of_document`",
                "name its token that ends a document, such as \"<|endoftext|>\"",
            ),
            (TokenFormat::Jsonl, Some(_), Some(_)) | (_, _, None) => Ok(()),
            (_, _, Some(_)) => refused(
                &path("end_of_document"),
                "is for jsonl with a tokenizer",
                "leave it out; elsewhere no token ends a document",
            ),
        }
    }

    pub(crate) fn check(mut self, at: &Path) -> Result<Data, Mistakes> {
        let files = self.files.take();
        let format = self.format.unwrap_or(TokenFormat::Bytes);
        all! {
            let files = files.map(|patterns| patterns.check(&at.key("files"))).transpose();
            let held_out = between(self.held_out.unwrap_or(0.1), 0.0, 1.0, &at.key("held_out"));
            let packing = check_packing(self.packing.unwrap_or_default(), format, at);
            let _tokenizer = self.check_tokenizer(format, at);
        }
        let source = files.map_or(DataWanted::PythonStandardLibrary, DataWanted::Files);
        let (tokenizer, end_of_document) = (self.tokenizer, self.end_of_document);
        Ok(Data { source, held_out, format, packing, tokenizer, end_of_document })
    }
}

fn check_packing(packing: Packing, format: TokenFormat, at: &Path) -> Result<Packing, RecipeError> {
    if packing == Packing::Documents && format != TokenFormat::Jsonl {
        return Err(RecipeError::new(&at.key("packing"), "`documents` needs the format `jsonl`")
            .given([at.key("format")])
            .hint("other formats do not tell where documents end"));
    }
    Ok(packing)
}

impl RawModel {
    pub(crate) fn filled(self) -> Architecture {
        Architecture {
            mlp: self.mlp.unwrap_or(Mlp::Gelu),
            tied: self.tied.unwrap_or(false),
            positions: self.positions.unwrap_or(Positions::Rotary),
            norm: self.norm.unwrap_or(Norm::RmsNorm),
        }
    }
}

impl RawValidation {
    pub(crate) fn check(self, at: &Path) -> Result<Validation, Mistakes> {
        all! {
            let tokens = match self.tokens.unwrap_or(32_768) {
                0 => Err(RecipeError::new(&at.key("tokens"), "must be at least 1, found 0")),
                tokens => Ok(tokens),
            };
            let target = self.target.map(|target| positive(target, &at.key("target"))).transpose();
        }
        Ok(Validation {
            every_steps: self.every_steps.unwrap_or(0),
            tokens,
            scoring: self.scoring.unwrap_or_default(),
            target,
        })
    }
}

/// A model by its shape.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawShape {
    sequence: Option<u32>,
    width: Option<u32>,
    layers: Option<u32>,
    heads: Option<u32>,
    mlp_width: Option<u32>,
    mlp: Option<Mlp>,
    tied: Option<bool>,
    positions: Option<Positions>,
    norm: Option<Norm>,
}

impl RawShape {
    /// A model with the vocabulary of `default`. What is left out is as in `default`, and the MLP
    /// is four times as wide as the model.
    pub(crate) fn check(self, default: &ModelSpec, at: &Path) -> Result<ModelSpec, Mistakes> {
        let whole = |value: Option<u32>, default: u32, max: u32, key: &str| {
            within(value.unwrap_or(default), 1, max, &at.key(key))
        };
        all! {
            let width = whole(self.width, default.width, WIDTH_MAX, "width");
            let sequence = whole(self.sequence, default.sequence, SEQUENCE_MAX, "sequence");
            let layers = whole(self.layers, default.layers, LAYERS_MAX, "layers");
            let mlp_width = self
                .mlp_width
                .map(|width| within(width, 1, MLP_WIDTH_MAX, &at.key("mlp_width")))
                .transpose();
        }
        let heads = whole(self.heads, default.heads, width, "heads")
            .map_err(|error| error.given([at.key("width")]))?;
        let model = ModelSpec {
            vocabulary: default.vocabulary,
            sequence,
            width,
            layers,
            heads,
            mlp_width: mlp_width.unwrap_or(4 * width),
            mlp: self.mlp.unwrap_or(default.mlp),
            tied: self.tied.unwrap_or(default.tied),
            positions: self.positions.unwrap_or(default.positions),
            norm: self.norm.unwrap_or(default.norm),
        };
        let (of, what) = match model.positions {
            Positions::Learned => (model.heads, "a multiple of the heads"),
            Positions::Rotary => (2 * model.heads, "a multiple of twice the heads, for rotary"),
        };
        if !width.is_multiple_of(of) {
            let message = format!("must be {what}, {of}, found {width}");
            let values = ["heads", "positions"].map(|key| at.key(key));
            return Err(RecipeError::new(&at.key("width"), message).given(values).into());
        }
        Ok(model)
    }
}
