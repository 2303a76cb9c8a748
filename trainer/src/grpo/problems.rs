//! Problems with their answers, split once and for all into those that are learned and those that
//! are only measured.

use super::verifier::{ExactSum, SameNumber, SameText, Verifier};
use crate::data::{self, DataError};
use crate::error::TrainError;
use proto::grpo::{END_OF_TEXT, Problems, VerifierKind};
use proto::{BlobId, GrpoSpec};
use serde::Deserialize;
use std::path::Path;

/// Longest line of a file of pairs; a policy's context is far shorter.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Most pairs of a file.
const PAIRS_MAX: usize = 1 << 24;

/// The problems of a specification.
#[derive(Debug)]
pub(super) struct ProblemSet {
    pairs: Vec<Pair>,
    /// Numbers of the pairs that are learned, in the order of their hashes.
    pub(super) training: Vec<u32>,
    /// Those of the pairs that are only measured, likewise.
    pub(super) held_out: Vec<u32>,
    verifier: Box<dyn Verifier>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    prompt: String,
    completion: String,
}

impl ProblemSet {
    /// The problems of `spec`; pairs are read from the file at `path`.
    ///
    /// # Errors
    /// The file is not the one, a line is no pair that fits the context, or one side is empty.
    pub(super) fn open(spec: &GrpoSpec, path: &Path) -> Result<Self, TrainError> {
        let (pairs, verifier): (_, Box<dyn Verifier>) = match &spec.problems {
            Problems::Addition { digits } => {
                let pairs = sums(*digits);
                // The last has the largest sum, and so no other is longer.
                if let Some(problem) = pairs.last().and_then(|pair| misfit(spec, pair)) {
                    return Err(TrainError::Spec {
                        field: "problems.addition.digits",
                        found: digits.to_string(),
                        wanted: format!("a number whose sums fit: {problem}"),
                    });
                }
                (pairs, Box::new(ExactSum))
            }
            Problems::Pairs { file, verifier } => {
                let content = data::map(path, file)?;
                let verifier: Box<dyn Verifier> = match verifier {
                    VerifierKind::Text => Box::new(SameText),
                    VerifierKind::Number => Box::new(SameNumber),
                };
                (read(&content, path, spec)?, verifier)
            }
        };
        let mut order: Vec<(u64, u32)> =
            (0..).zip(&pairs).map(|(number, pair)| (place(spec, pair), number)).collect();
        order.sort_unstable();
        let limit = (spec.held_out * u64::MAX as f64) as u64;
        let (held_out, training): (Vec<_>, Vec<_>) =
            order.into_iter().partition(|(place, _)| *place < limit);
        let numbers = |side: Vec<(u64, u32)>| side.into_iter().map(|(_, n)| n).collect::<Vec<_>>();
        let (training, held_out) = (numbers(training), numbers(held_out));
        for (part, side) in [("training", &training), ("held-out", &held_out)] {
            if side.is_empty() {
                return Err(TrainError::Spec {
                    field: "held_out",
                    found: spec.held_out.to_string(),
                    wanted: format!("another share: of {} problems none is {part}", pairs.len()),
                });
            }
        }
        Ok(Self { pairs, training, held_out, verifier })
    }

    /// Tokens of a prompt.
    pub(super) fn prompt(&self, number: u32) -> Vec<u32> {
        self.pairs[number as usize].prompt.bytes().map(u32::from).collect()
    }

    /// Tokens of a right completion, with its end.
    pub(super) fn completion(&self, number: u32) -> Vec<u32> {
        let text = self.pairs[number as usize].completion.bytes().map(u32::from);
        text.chain([END_OF_TEXT]).collect()
    }

    /// Reward of the tokens of a completion. One that does not end is wrong, and so is one that is
    /// no text.
    pub(super) fn reward(&self, number: u32, tokens: &[u32]) -> f64 {
        let Some((&END_OF_TEXT, text)) = tokens.split_last() else { return 0.0 };
        let bytes: Option<Vec<u8>> = text.iter().map(|token| u8::try_from(*token).ok()).collect();
        let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok()) else { return 0.0 };
        let pair = &self.pairs[number as usize];
        self.verifier.reward(&pair.prompt, &pair.completion, &text)
    }
}

/// The problems by content, for a checkpoint.
pub(super) fn identity(problems: &Problems) -> BlobId {
    match problems {
        Problems::Pairs { file, .. } => file.blob.clone(),
        Problems::Addition { digits } => {
            BlobId::from_hash(blake3::hash(format!("brine addition {digits}").as_bytes()))
        }
    }
}

/// All sums of two numbers of so many digits.
fn sums(digits: u32) -> Vec<Pair> {
    let first = if digits == 1 { 0 } else { 10_u64.pow(digits - 1) };
    let numbers = first..10_u64.pow(digits);
    let pair =
        |a: u64, b: u64| Pair { prompt: format!("{a}+{b}="), completion: (a + b).to_string() };
    numbers.clone().flat_map(|a| numbers.clone().map(move |b| pair(a, b))).collect()
}

/// Where a pair stands on the line from which the held-out share is cut. It does not depend on the
/// seed: all trials are measured on the same problems. Pairs that give each other away stand in
/// one place.
fn place(spec: &GrpoSpec, pair: &Pair) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"brine held out");
    match &spec.problems {
        Problems::Addition { .. } => {
            let mut terms: Vec<&str> = pair.prompt.trim_end_matches('=').split('+').collect();
            terms.sort_unstable();
            hasher.update(terms.join("+").as_bytes());
        }
        Problems::Pairs { .. } => {
            hasher.update(pair.prompt.as_bytes());
        }
    }
    number(&hasher)
}

/// The number that what was hashed stands for.
pub(super) fn number(hasher: &blake3::Hasher) -> u64 {
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Why a pair does not fit the model's context, if it does not.
fn misfit(spec: &GrpoSpec, pair: &Pair) -> Option<String> {
    // The end of the text is a token too.
    let answer = pair.completion.len() + 1;
    let room = spec.completion_tokens_max as usize;
    let context = spec.model.sequence as usize;
    (answer > room || pair.prompt.len() + room > context).then(|| {
        format!(
            "the prompt has {} tokens and its completion {answer}; a completion may have {room}, \
             and the context holds {context}",
            pair.prompt.len()
        )
    })
}

/// The pairs in `content`, that of the file at `path`. Blank lines hold none.
fn read(content: &[u8], path: &Path, spec: &GrpoSpec) -> Result<Vec<Pair>, DataError> {
    let mut pairs = Vec::new();
    for (line, bytes) in (1..).zip(content.split(|byte| *byte == b'\n')) {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |problem| DataError::Pair { path: path.to_owned(), line, problem };
        if bytes.len() > LINE_BYTES_MAX {
            return Err(wrong(format!("the line is longer than {LINE_BYTES_MAX} bytes")));
        }
        if pairs.len() == PAIRS_MAX {
            return Err(wrong(format!("more than {PAIRS_MAX} pairs")));
        }
        let pair: Pair = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        if pair.prompt.is_empty() {
            return Err(wrong("the prompt is empty".to_owned()));
        }
        if let Some(problem) = misfit(spec, &pair) {
            return Err(wrong(problem));
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_held_out_sum_is_learned_in_either_order() {
        let spec = super::super::tests::spec();
        let set = ProblemSet::open(&spec, Path::new("")).unwrap();
        assert_eq!(set.pairs.len(), 8_100);
        let share = set.held_out.len() as f64 / 8_100.0;
        assert!((share - spec.held_out).abs() < 0.03, "{share}");
        assert_eq!(set.held_out.len() + set.training.len(), 8_100);
        let terms = |number: &u32| {
            let prompt = &set.pairs[*number as usize].prompt;
            let (a, b) = prompt.trim_end_matches('=').split_once('+').unwrap();
            if a < b { (a.to_owned(), b.to_owned()) } else { (b.to_owned(), a.to_owned()) }
        };
        let learned: BTreeSet<_> = set.training.iter().map(terms).collect();
        assert!(set.held_out.iter().all(|number| !learned.contains(&terms(number))));
    }

    #[test]
    fn a_completion_counts_when_it_is_right_and_ends() {
        let set = ProblemSet::open(&super::super::tests::spec(), Path::new("")).unwrap();
        let number = 0; // 10+10=
        assert_eq!(set.prompt(number), "10+10=".bytes().map(u32::from).collect::<Vec<_>>());
        let right = set.completion(number);
        assert_eq!(right, [u32::from(b'2'), u32::from(b'0'), END_OF_TEXT]);
        assert_eq!(set.reward(number, &right), 1.0);
        assert_eq!(set.reward(number, &right[..2]), 0.0);
        assert_eq!(set.reward(number, &[0xff, END_OF_TEXT]), 0.0);
        assert_eq!(set.reward(number, &[END_OF_TEXT, END_OF_TEXT]), 0.0);
        assert_eq!(set.reward(number, &[]), 0.0);
    }

    #[test]
    fn a_line_that_is_no_pair_is_named() {
        let (path, spec) = (Path::new("pairs"), super::super::tests::spec());
        let text = b"{\"prompt\": \"a\", \"completion\": \"b\"}\n\n";
        assert_eq!(read(text, path, &spec).unwrap().len(), 1);
        for (line, expected) in [
            ("{\"prompt\": \"a\"}", "missing field `completion`"),
            ("{\"prompt\": \"\", \"completion\": \"b\"}", "the prompt is empty"),
            ("{\"prompt\": \"a\", \"completion\": \"b\", \"x\": 1}", "unknown field `x`"),
            ("{\"prompt\": \"a\", \"completion\": \"bcde\"}", "1 tokens and its completion 5"),
        ] {
            let text = [&text[..], line.as_bytes()].concat();
            let error = read(&text, path, &spec).unwrap_err().to_string();
            assert!(error.contains("line 3") && error.contains(expected), "{error}");
        }
    }
}
