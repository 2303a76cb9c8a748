//! Tokens per second that a model of Hugging Face writes, greedily and with the cache of keys and
//! values, from prompts of equal length: from the prompts to the last token.

use crate::figures::in_turn;
use crate::peer::Peer;
use serde_json::{Value, json};
use std::time::Instant;
use tch::Device;
use trainer::generate::{Request, Sampler, generate as write};
use trainer::hf;

const VOCABULARY: u32 = 257;
const POSITIONS: u32 = 256;
const PROMPT_TOKENS: u32 = 32;
const THREADS: i32 = 1;

/// Both families in two sizes, one prompt and eight.
pub(crate) fn generate(mut peer: Peer) {
    println!("generate: prompts of {PROMPT_TOKENS} tokens, {THREADS} thread(s)");
    let folder = tempfile::tempdir_in(".").unwrap();
    for (width, layers, heads, added) in [(64, 2, 4, 128), (384, 6, 6, 128)] {
        for family in ["gpt2", "llama"] {
            let model = folder.path().join(format!("{family}-{width}"));
            let saved = peer.ask(&json!({
                "do": "save", "folder": model, "family": family, "vocabulary": VOCABULARY,
                "width": width, "layers": layers, "heads": heads, "positions": POSITIONS,
            }));
            let parameters = saved["parameters"].as_f64().unwrap() / 1e6;
            tch::set_num_threads(THREADS);
            let (_parameters, ours) = hf::load(&model, Device::Cpu).unwrap();
            for batch in [1, 8] {
                let prompts: Vec<Vec<u32>> = (0..batch).map(prompt).collect();
                let theirs = json!({
                    "do": "write", "folder": model, "prompts": prompts, "tokens": added,
                    "threads": THREADS,
                });
                let line = measure(&mut peer, &theirs, &prompts, added, &ours);
                println!("  {family}, {width} wide, {parameters:.2} M, batch {batch}: {line}");
            }
        }
    }
}

fn prompt(number: u32) -> Vec<u32> {
    (0..PROMPT_TOKENS).map(|i| (i * i + 31 * number + 7) % VOCABULARY).collect()
}

fn measure(
    peer: &mut Peer,
    request: &Value,
    prompts: &[Vec<u32>],
    added: u32,
    model: &trainer::model::Model,
) -> String {
    let ours =
        Request { tokens_max: added, sampler: Sampler::Greedy, seed: 1, stop_tokens: vec![] };
    let mine = || write(model, Device::Cpu, prompts, &ours, &mut |_, _| Ok(false)).unwrap();
    let texts = compare(&mine(), &peer.ask(request)["texts"]);
    let tokens = (prompts.len() * added as usize) as f64;
    let line = in_turn(
        &mut || {
            let begun = Instant::now();
            mine();
            tokens / begun.elapsed().as_secs_f64()
        },
        Some(&mut || tokens / peer.ask(request)["seconds"].as_f64().unwrap()),
    );
    format!("{line}; {texts}")
}

/// Whether both wrote the same, and from where on not.
fn compare(mine: &[Vec<u32>], theirs: &Value) -> String {
    let theirs: Vec<Vec<u32>> = serde_json::from_value(theirs.clone()).unwrap();
    assert_eq!(mine.len(), theirs.len(), "texts");
    let first = |(mine, theirs): (&Vec<u32>, &Vec<u32>)| {
        assert_eq!(mine.len(), theirs.len(), "tokens of a text");
        mine.iter().zip(theirs).position(|(mine, theirs)| mine != theirs)
    };
    let places: Vec<usize> = mine.iter().zip(&theirs).filter_map(first).collect();
    if places.is_empty() {
        return "the same tokens".to_owned();
    }
    format!("{} of {} texts differ, from tokens {places:?} on", places.len(), mine.len())
}
