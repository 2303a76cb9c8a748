//! Trainings on text that a `tokenizer.json` turns into tokens. The tokenizer is a BPE that the
//! test makes.

use crate::{Lab, Notebook, metrics, spec, text};
use proto::{BlobId, BlobRef, FailureClass, Packing, TokenFormat, TokenizerSpec, TrainSpec};
use std::fs;
use std::path::PathBuf;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Model, TokenizerImpl};
use trainer::End;
use trainer::data::{Encoding, FromFile, Text};

const END: &str = "<|end|>";
const VOCABULARY: u32 = 290;

/// A byte-level BPE over [`text`].
fn tokenizer() -> String {
    let model = BPE::default();
    let mut made: TokenizerImpl<
        BPE,
        tokenizers::NormalizerWrapper,
        ByteLevel,
        ByteLevel,
        ByteLevel,
    > = TokenizerImpl::new(model);
    made.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_decoder(Some(ByteLevel::new(false, true, true)));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY as usize)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END, true)])
        .build();
    let text = String::from_utf8(text()).unwrap();
    made.train(&mut trainer, text.lines()).unwrap();
    assert!(made.get_model().get_vocab_size() <= VOCABULARY as usize);
    made.to_string(false).unwrap()
}

fn blob(content: &[u8]) -> BlobRef {
    BlobRef { blob: BlobId::from_hash(blake3::hash(content)), bytes: content.len() as u64 }
}

/// A lab with `content` and the tokenizer, and what trains on it.
fn lab(content: &[u8], format: TokenFormat, packing: Packing, steps: u64) -> (Lab, TrainSpec) {
    let lab = Lab::with(content);
    let json = tokenizer();
    fs::write(lab.tokenizer(), &json).unwrap();
    let mut spec = spec(steps);
    let end_of_document = (format == TokenFormat::Jsonl).then(|| END.to_owned());
    spec.data.text = blob(content);
    spec.data.format = format;
    spec.data.packing = packing;
    spec.data.tokenizer = Some(TokenizerSpec { file: blob(json.as_bytes()), end_of_document });
    spec.model.vocabulary = VOCABULARY;
    (lab, spec)
}

fn documents() -> Vec<u8> {
    let text = String::from_utf8(text()).unwrap();
    let line = |text: &str| serde_json::json!({ "text": text }).to_string() + "\n";
    text.split_inclusive('\n').map(line).collect::<String>().into_bytes()
}

fn kept(lab: &Lab) -> Vec<PathBuf> {
    let files = fs::read_dir(lab.checkpoints()).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|kind| kind == "tokens")).collect()
}

// Goal: every format for a tokenizer resumes to the same bits, whether its tokens are made, found,
// or made again because the file was damaged.
#[test]
fn a_training_with_a_tokenizer_resumes_to_the_same_bits() {
    for (content, format, packing) in [
        (text(), TokenFormat::Text, Packing::Stream),
        (documents(), TokenFormat::Jsonl, Packing::Stream),
        (documents(), TokenFormat::Jsonl, Packing::Documents),
    ] {
        let (lab, spec) = lab(&content, format, packing, 6);
        let bits = |resume: &[_]| {
            let end = lab.train(&spec, 9, resume, &mut Notebook::default()).unwrap();
            metrics(end)["validation_loss"].to_bits()
        };
        let undisturbed = bits(&[]);
        let [file] = <[PathBuf; 1]>::try_from(kept(&lab)).unwrap();
        let made = fs::metadata(&file).unwrap().modified().unwrap();
        let mut notebook = Notebook::stop_after(3);
        let end = lab.train(&spec, 1, &[], &mut notebook).unwrap();
        assert_eq!(end, End::Stopped { step: 3 });
        assert_eq!(bits(&notebook.checkpoints), undisturbed, "{format:?} {packing:?}");
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), made, "made once");
        let whole = fs::read(&file).unwrap();
        let mut torn = whole.clone();
        torn[5] ^= 1;
        for damaged in [torn, whole[..whole.len() / 2].to_vec(), Vec::new()] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(bits(&[]), undisturbed);
            assert_eq!(fs::read(&file).unwrap(), whole);
        }
    }
}

// Goal: the tokens are the tokenizer's own, line by line, and the end follows every document.
#[test]
fn the_tokens_are_the_tokenizer_s() {
    let made: tokenizers::Tokenizer = tokenizer().parse().unwrap();
    let content = documents();
    let (lab, spec) = lab(&content, TokenFormat::Jsonl, Packing::Stream, 1);
    let from_file =
        FromFile::open(&lab.tokenizer(), spec.data.tokenizer.as_ref().unwrap(), VOCABULARY);
    let from_file = from_file.unwrap();
    let mut wanted: Vec<i64> = Vec::new();
    for line in String::from_utf8(text()).unwrap().split_inclusive('\n') {
        let ids = made.encode(line, false).unwrap();
        wanted.extend(ids.get_ids().iter().map(|id| i64::from(*id)));
        wanted.push(i64::from(made.token_to_id(END).unwrap()));
    }
    let (memory, folder) = (None, lab.checkpoints());
    for kept in [memory, Some(folder.as_path())] {
        let encoding = Encoding { tokenizer: &from_file, kept };
        let text = Text::open(&lab.data(), &spec.data, &encoding, VOCABULARY, 16, 1).unwrap();
        let held_out = text.held_out(0, text.held_out_windows());
        let start = wanted.len() - held_out.inputs.len() - 32;
        let tail = &wanted[start..];
        assert!(tail.windows(16).any(|part| part == &held_out.inputs[..16]));
    }
}

// Goal: a text that is longer than a piece loses and doubles nothing, wherever its lines end, and
// whatever stands at the cuts.
#[test]
fn a_text_of_several_pieces_is_whole() {
    let long_line = "ä".repeat(700_000); // 1.4 MB without an end
    let content = [text(), long_line.into_bytes(), b"\n".to_vec(), text().repeat(60)].concat();
    let (lab, spec) = lab(&content, TokenFormat::Text, Packing::Stream, 1);
    let tokenizer = spec.data.tokenizer.as_ref().unwrap();
    let from_file = FromFile::open(&lab.tokenizer(), tokenizer, VOCABULARY).unwrap();
    let encoding = Encoding { tokenizer: &from_file, kept: None };
    let mut data = spec.data.clone();
    data.held_out = 0.5;
    let text = Text::open(&lab.data(), &data, &encoding, VOCABULARY, 16, 1).unwrap();
    // Byte-level tokens are bytes again.
    let made: tokenizers::Tokenizer = tokenizer_of(&lab);
    let held_out = text.held_out(0, text.held_out_windows());
    let ids: Vec<u32> = held_out.inputs.iter().map(|id| *id as u32).collect();
    let decoded = made.decode(&ids, false).unwrap();
    let whole = String::from_utf8(content).unwrap();
    let middle = decoded.trim_matches(char::REPLACEMENT_CHARACTER);
    assert!(middle.len() > 100_000 && whole.contains(middle), "{}", middle.len());
}

fn tokenizer_of(lab: &Lab) -> tokenizers::Tokenizer {
    fs::read_to_string(lab.tokenizer()).unwrap().parse().unwrap()
}

#[test]
fn a_tokenizer_that_does_not_fit_is_named() {
    let check = |edit: &dyn Fn(&mut TrainSpec), expected: &[&str]| {
        let (lab, mut spec) = lab(&documents(), TokenFormat::Jsonl, Packing::Stream, 1);
        edit(&mut spec);
        let error = lab.train(&spec, 1, &[], &mut Notebook::default()).unwrap_err();
        assert_eq!(error.class(), FailureClass::Invalid, "{error}");
        let text = error.to_string();
        assert!(expected.iter().all(|words| text.contains(words)), "{text}");
    };
    let edit_end = |spec: &mut TrainSpec, end: Option<&str>| {
        spec.data.tokenizer.as_mut().unwrap().end_of_document = end.map(str::to_owned);
    };
    // Both numbers: the tokenizer's largest token, and the model's vocabulary.
    check(&|s| s.model.vocabulary = 270, &["has number", "the model's vocabulary has 270"]);
    check(&|s| edit_end(s, Some("<|no|>")), &["no token \"<|no|>\""]);
    check(&|s| edit_end(s, None), &["data.tokenizer is"]);
    check(&|s| s.data.format = TokenFormat::Bytes, &["data.tokenizer is"]);
    check(&|s| s.data.tokenizer.as_mut().unwrap().file.bytes += 1, &["the trial wants"]);
    let binary = [&b"text\n"[..], &[0xff; 400]].concat();
    let (lab, spec) = lab(&binary, TokenFormat::Text, Packing::Stream, 1);
    let error = lab.train(&spec, 1, &[], &mut Notebook::default()).unwrap_err();
    assert!(error.to_string().contains("not UTF-8 at byte 5"), "{error}");
}
