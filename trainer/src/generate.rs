//! Text that a model writes: a batch of prompts of any lengths, with a cache of keys and values.

mod generator;

pub use generator::Generator;
pub use kernels::sampling::Sampler;

use crate::model::{Cache, Model};
use crate::operations::choose_tokens;
use crate::tokenizer::{Tokenizer, TokenizerError};
use tch::{Device, TchError, Tensor};

/// What to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Most tokens to add to each prompt.
    pub tokens_max: u32,
    /// How each is chosen.
    pub sampler: Sampler,
    /// Decides what the sampler draws.
    pub seed: u64,
    /// Tokens that end a text. The one that ends it is its last.
    pub stop_tokens: Vec<u32>,
}

/// Why nothing can be written.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A number of the request is out of its range.
    #[error("{fault}")]
    Request {
        /// Which, and what it must be.
        fault: String,
    },
    /// There is nothing to go on from.
    #[error("prompt {prompt} has no tokens; begin it with the model's first token")]
    Empty {
        /// Its number, from 0.
        prompt: usize,
    },
    /// A prompt has a token that the model does not know.
    #[error("prompt {prompt} has token {token}, the model's vocabulary has {vocabulary}")]
    Vocabulary {
        /// Its number, from 0.
        prompt: usize,
        /// The token.
        token: u32,
        /// The model's.
        vocabulary: u32,
    },
    /// The text would be longer than the model's context.
    #[error(
        "prompt {prompt} has {tokens} tokens and {added} are to be added, the model's context has \
        {sequence}"
    )]
    Long {
        /// Its number, from 0.
        prompt: usize,
        /// Its length.
        tokens: usize,
        /// Tokens to be added.
        added: u32,
        /// The model's context.
        sequence: u32,
    },
    /// The model computes numbers that are not finite.
    #[error("the scores of the token at place {place} of prompt {prompt} are not finite")]
    NotFinite {
        /// Its number, from 0.
        prompt: usize,
        /// Place in the whole text, from 0.
        place: usize,
    },
    /// The tokenizer refused.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// libtorch refused, most likely for lack of memory.
    #[error("libtorch failed writing token {step} of a batch of {prompts} prompts")]
    Torch {
        /// Tokens written so far.
        step: u32,
        /// Size of the batch.
        prompts: usize,
        /// What it said.
        source: TchError,
    },
}

/// Whether a text is over, from its prompt's number and the tokens added so far.
pub type Ended<'a> = dyn FnMut(usize, &[u32]) -> Result<bool, GenerateError> + 'a;

/// Tokens that `model`, on `device`, adds to each of `prompts`. A text ends with a token of
/// `stop_tokens`, when `ended` says so, or at `tokens_max`. What is added to a prompt does not
/// depend on the other prompts, except through the rounding of sums.
///
/// # Errors
/// The request, a prompt or the model is wrong; nothing is written then.
pub fn generate(
    model: &Model,
    device: Device,
    prompts: &[Vec<u32>],
    request: &Request,
    ended: &mut Ended<'_>,
) -> Result<Vec<Vec<u32>>, GenerateError> {
    check(model, prompts, request)?;
    let mut texts = vec![vec![]; prompts.len()];
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    if prompts.is_empty() || request.tokens_max == 0 {
        return Ok(texts);
    }
    let at = |step| {
        let prompts = prompts.len();
        move |source| GenerateError::Torch { step, prompts, source }
    };
    let padding: Vec<i64> = prompts.iter().map(|p| (longest - p.len()) as i64).collect();
    let capacity = longest as i64 + i64::from(request.tokens_max);
    let mut cache = Cache::new(model, &padding, capacity).map_err(at(0))?;
    let mut generators: Vec<_> = (0..prompts.len() as u64)
        .map(|sequence| Generator { seed: request.seed, sequence, drawn: 0 })
        .collect();
    let mut going = vec![true; prompts.len()];
    let mut next = padded(prompts, longest);
    for step in 0..request.tokens_max {
        let tokens = Tensor::f_from_slice(&next).and_then(|t| t.f_view([prompts.len() as i64, -1]));
        let tokens = tokens.and_then(|tokens| tokens.f_to_device(device)).map_err(at(step))?;
        let scores = model.next_logits(&tokens, &mut cache).map_err(at(step))?;
        // The text of a prompt that is over is not looked at, but computed with the others.
        let draw = |(generator, going): (&mut Generator, &bool)| match going {
            true => generator.uniform(),
            false => 0.0,
        };
        let uniforms: Vec<f64> = generators.iter_mut().zip(&going).map(draw).collect();
        let chosen = choose_tokens(&scores, &request.sampler, &uniforms).map_err(at(step))?;
        next.clear();
        for (prompt, token) in chosen.into_iter().enumerate() {
            let text = &mut texts[prompt];
            if !going[prompt] {
                next.push(0);
                continue;
            }
            let Some(token) = token else {
                let place = prompts[prompt].len() + text.len();
                return Err(GenerateError::NotFinite { prompt, place });
            };
            text.push(token);
            next.push(i64::from(token));
            going[prompt] = !request.stop_tokens.contains(&token) && !ended(prompt, text)?;
        }
        if !going.contains(&true) {
            break;
        }
    }
    Ok(texts)
}

/// Texts that `model` adds to each of `prompts`, up to and without the first of `stops`.
///
/// # Errors
/// As [`generate`], and when the tokenizer refuses.
pub fn generate_text(
    model: &Model,
    device: Device,
    tokenizer: &Tokenizer,
    prompts: &[&str],
    request: &Request,
    stops: &[&str],
) -> Result<Vec<String>, GenerateError> {
    if stops.contains(&"") {
        let fault = "a stop string is empty, it would end every text at once".to_owned();
        return Err(GenerateError::Request { fault });
    }
    let encoded = prompts.iter().map(|p| tokenizer.encode(p)).collect::<Result<Vec<_>, _>>()?;
    let first_stop = |text: &str| stops.iter().filter_map(|stop| text.find(stop)).min();
    let mut ended = |_, tokens: &[u32]| {
        Ok(!stops.is_empty() && first_stop(&tokenizer.decode(tokens)?).is_some())
    };
    let texts = generate(model, device, &encoded, request, &mut ended)?;
    texts
        .iter()
        .map(|tokens| {
            let mut text = tokenizer.decode(tokens)?;
            text.truncate(first_stop(&text).unwrap_or(text.len()));
            Ok(text)
        })
        .collect()
}

fn check(model: &Model, prompts: &[Vec<u32>], request: &Request) -> Result<(), GenerateError> {
    if let Some(fault) = request.sampler.fault() {
        return Err(GenerateError::Request { fault });
    }
    let sizes = model.architecture().sizes;
    let (vocabulary, sequence, added) = (sizes.vocabulary, sizes.sequence, request.tokens_max);
    for (prompt, tokens) in prompts.iter().enumerate() {
        if tokens.is_empty() {
            return Err(GenerateError::Empty { prompt });
        }
        if let Some(&token) = tokens.iter().find(|&&token| token >= vocabulary) {
            return Err(GenerateError::Vocabulary { prompt, token, vocabulary });
        }
        if tokens.len() as u64 + u64::from(added) > u64::from(sequence) {
            let tokens = tokens.len();
            return Err(GenerateError::Long { prompt, tokens, added, sequence });
        }
    }
    Ok(())
}

/// All prompts with zeros before the shorter ones.
fn padded(prompts: &[Vec<u32>], longest: usize) -> Vec<i64> {
    prompts
        .iter()
        .flat_map(|prompt| {
            let zeros = std::iter::repeat_n(0, longest - prompt.len());
            zeros.chain(prompt.iter().copied().map(i64::from))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, Sizes};
    use crate::parameters::{Layout, Parameters};
    use kernels::sampling::cpu::choose;
    use tch::no_grad;

    const SIZES: Sizes = Sizes {
        vocabulary: 23,
        sequence: 32,
        width: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        mlp_width: 24,
    };

    const GREEDY: Request =
        Request { tokens_max: 12, sampler: Sampler::Greedy, seed: 5, stop_tokens: vec![] };

    fn families() -> [Architecture; 5] {
        [
            Architecture::gpt2(Sizes { kv_heads: 4, ..SIZES }),
            Architecture::llama(SIZES),
            Architecture::qwen2(SIZES),
            Architecture { head_width: 8, ..Architecture::qwen3(SIZES) },
            Architecture::speedrun(SIZES),
        ]
    }

    fn build(architecture: &Architecture) -> Model {
        let layout = Layout::of(architecture);
        let values = layout.initial_values(1).unwrap();
        let parameters =
            Parameters::new(layout, &values, proto::Precision::Float32, Device::Cpu).unwrap();
        Model::new(architecture, &parameters).unwrap()
    }

    fn prompts() -> Vec<Vec<u32>> {
        [1, 7, 4, 12].map(|len| (0..len).map(|i| (i * 5 + len) % 23).collect()).to_vec()
    }

    fn never(_: usize, _: &[u32]) -> Result<bool, GenerateError> {
        Ok(false)
    }

    fn write(model: &Model, prompts: &[Vec<u32>], request: &Request) -> Vec<Vec<u32>> {
        generate(model, Device::Cpu, prompts, request, &mut never).unwrap()
    }

    /// The same without cache, batch or padding: the whole text for every token.
    fn uncached(model: &Model, prompt: &[u32], sequence: u64, request: &Request) -> Vec<u32> {
        let mut text: Vec<i64> = prompt.iter().map(|&t| i64::from(t)).collect();
        let mut generator = Generator { seed: request.seed, sequence, drawn: 0 };
        let mut added = vec![];
        for _ in 0..request.tokens_max {
            let tokens = Tensor::from_slice(&text).view([1, -1]);
            let row = no_grad(|| model.logits(&tokens)).unwrap().select(0, -1);
            let row = Vec::<f32>::try_from(row).unwrap();
            let token = choose(&request.sampler, &row, generator.uniform()).unwrap() as u32;
            text.push(i64::from(token));
            added.push(token);
        }
        added
    }

    #[test]
    fn the_cache_and_the_batch_change_no_token() {
        let random = Sampler::Random { temperature: 0.8, top_k: Some(10), top_p: Some(0.9) };
        for architecture in families() {
            let model = build(&architecture);
            for sampler in [Sampler::Greedy, random] {
                let request = Request { sampler, ..GREEDY };
                let batch = write(&model, &prompts(), &request);
                for (i, prompt) in prompts().iter().enumerate() {
                    let alone = uncached(&model, prompt, i as u64, &request);
                    assert_eq!(batch[i], alone, "prompt {i}: {sampler:?} {architecture:?}");
                }
            }
        }
    }

    #[test]
    fn cached_scores_are_the_uncached_ones() {
        let tokens: Vec<i64> = (0..20).map(|i| (i * 7) % 23).collect();
        let tokens = Tensor::from_slice(&tokens).view([1, 20]);
        for architecture in families() {
            let model = build(&architecture);
            let whole = no_grad(|| model.logits(&tokens)).unwrap();
            let mut cache = Cache::new(&model, &[0], 20).unwrap();
            for (first, count) in [(0, 6), (6, 1), (7, 9), (16, 4)] {
                let part = tokens.narrow(1, first, count);
                let row = model.next_logits(&part, &mut cache).unwrap();
                let change = row - whole.narrow(0, first + count - 1, 1);
                let change = change.abs().max().double_value(&[]);
                assert!(change < 1e-5, "{change} after {first} + {count}: {architecture:?}");
            }
            assert_eq!((cache.len(), cache.room()), (20, 0));
            model.next_logits(&tokens.narrow(1, 0, 1), &mut cache).unwrap_err();
        }
    }

    #[test]
    fn a_text_ends_where_it_should_and_the_others_go_on() {
        let model = build(&families()[1]);
        let free = write(&model, &prompts(), &GREEDY);
        let stop = free[1][3];
        let stopped = write(&model, &prompts(), &Request { stop_tokens: vec![stop], ..GREEDY });
        for (free, stopped) in free.iter().zip(&stopped) {
            let end = free.iter().position(|&t| t == stop).map_or(free.len(), |i| i + 1);
            assert_eq!(stopped, &free[..end]);
        }
        let mut after_two = |_, tokens: &[u32]| Ok(tokens.len() == 2);
        let short = generate(&model, Device::Cpu, &prompts(), &GREEDY, &mut after_two).unwrap();
        assert!(short.iter().zip(&free).all(|(short, free)| short == &free[..2]));
    }

    #[test]
    fn the_seed_decides_what_is_drawn() {
        let model = build(&families()[1]);
        let sampler = Sampler::Random { temperature: 1.5, top_k: None, top_p: None };
        let request = Request { sampler, ..GREEDY };
        let first = write(&model, &prompts(), &request);
        assert_eq!(first, write(&model, &prompts(), &request));
        assert_ne!(first, write(&model, &prompts(), &Request { seed: 6, ..request }));
        let twins = write(&model, &[vec![1, 2], vec![1, 2]], &Request { sampler, ..GREEDY });
        assert_ne!(twins[0], twins[1], "equal prompts draw for themselves");
    }

    #[test]
    fn what_can_not_be_written_is_named() {
        let model = build(&families()[0]);
        let check = |prompts: &[Vec<u32>], request: &Request, text: &str| {
            let error = generate(&model, Device::Cpu, prompts, request, &mut never).unwrap_err();
            assert!(error.to_string().starts_with(text), "{error}");
        };
        check(&[vec![1], vec![]], &GREEDY, "prompt 1 has no tokens");
        check(&[vec![1, 23]], &GREEDY, "prompt 0 has token 23, the model's vocabulary has 23");
        check(&[vec![0; 21]], &GREEDY, "prompt 0 has 21 tokens and 12 are to be added");
        let sampler = Sampler::Random { temperature: -1.0, top_k: None, top_p: None };
        check(&[vec![1]], &Request { sampler, ..GREEDY }, "temperature is -1");
        assert!(write(&model, &[], &GREEDY).is_empty());
        let nothing = write(&model, &[vec![1]], &Request { tokens_max: 0, ..GREEDY });
        assert_eq!(nothing, [Vec::<u32>::new()]);
    }

    #[test]
    fn weights_that_are_not_numbers_are_noticed() {
        let layout = Layout::of(&families()[1]);
        let mut values = layout.initial_values(1).unwrap();
        values[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let parameters =
            Parameters::new(layout, &values, proto::Precision::Float32, Device::Cpu).unwrap();
        let model = Model::new(&families()[1], &parameters).unwrap();
        let error = generate(&model, Device::Cpu, &[vec![0]], &GREEDY, &mut never).unwrap_err();
        assert!(matches!(error, GenerateError::NotFinite { prompt: 0, place: 1 }), "{error}");
    }

    /// One word per token of the vocabulary: `w0`, `w1`, ...
    fn words() -> (tempfile::TempDir, Tokenizer) {
        let vocabulary: Vec<String> =
            (0..SIZES.vocabulary).map(|i| format!("\"w{i}\": {i}")).collect();
        let text = format!(
            r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": {{"type": "Whitespace"}}, "post_processor": null,
            "decoder": null,
            "model": {{"type": "WordLevel", "vocab": {{{}}}, "unk_token": "w0"}}}}"#,
            vocabulary.join(",")
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(crate::tokenizer::FILE), text).unwrap();
        let tokenizer = Tokenizer::load(folder.path(), SIZES.vocabulary).unwrap();
        (folder, tokenizer)
    }

    // Goal: a text ends before the first of the stop strings, which may lie across tokens, and
    // nobody else's text changes.
    #[test]
    fn a_text_ends_before_a_stop_string() {
        let model = build(&Architecture::llama(SIZES));
        let (_folder, tokenizer) = words();
        let prompts = ["w3 w1 w4", "w2 w7"];
        // A high temperature: a greedy model of this size repeats itself.
        let sampler = Sampler::Random { temperature: 3.0, top_k: None, top_p: None };
        let request = Request { sampler, ..GREEDY };
        let texts = |stops: &[&str]| {
            generate_text(&model, Device::Cpu, &tokenizer, &prompts, &request, stops).unwrap()
        };
        let whole = texts(&[]);
        let words: Vec<&str> = whole[0].split(' ').collect();
        assert_eq!(words.len(), request.tokens_max as usize);
        // The end of one word and the beginning of the next.
        let stop = format!("{} {}", &words[4][1..], words[5]);
        let place = whole[0].find(&stop).unwrap();
        assert!(!whole[1].contains(&stop), "another seed is needed: {whole:?}");
        let stopped = texts(&["never", &stop]);
        assert_eq!(stopped, [whole[0][..place].to_owned(), whole[1].clone()]);
        let refused = generate_text(&model, Device::Cpu, &tokenizer, &prompts, &request, &[""]);
        assert!(refused.unwrap_err().to_string().contains("stop string is empty"));
    }
}
