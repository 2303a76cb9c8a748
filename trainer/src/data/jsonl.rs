//! Documents of a JSONL file: one JSON object per line, the document is its member `text`.

use super::DataError;
use super::tokenizer::Tokenizer;
use serde::Deserialize;
use std::borrow::Cow;
use std::path::Path;

/// Longest line. A document of this length is a mistake, such as a file without line ends.
const LINE_BYTES_MAX: usize = 1 << 28;
/// Most tokens, 16 GiB of them.
const TOKENS_MAX: usize = 1 << 32;

/// Tokens of all documents, each followed by the end-of-document token.
#[derive(Debug)]
pub(super) struct Documents {
    pub(super) tokens: Vec<u32>,
    /// For each document the number of tokens up to its end.
    pub(super) ends: Vec<u64>,
}

/// A line. Members with other names are the data set's own.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// Tokenises the documents in `content`, that of the file at `path`. Blank lines hold none.
pub(super) fn read(
    content: &[u8],
    path: &Path,
    tokenizer: &dyn Tokenizer,
) -> Result<Documents, DataError> {
    let mut documents = Documents { tokens: Vec::new(), ends: Vec::new() };
    for (line, bytes) in (1..).zip(content.split(|byte| *byte == b'\n')) {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let text = text(bytes).map_err(|(column, problem)| {
            let path = path.to_owned();
            DataError::Line { path, line, column, problem }
        })?;
        tokenizer.encode(&text, &mut documents.tokens);
        documents.tokens.push(tokenizer.end_of_document());
        documents.ends.push(documents.tokens.len() as u64);
        if documents.tokens.len() > TOKENS_MAX {
            return Err(DataError::Long { path: path.to_owned(), max: TOKENS_MAX });
        }
    }
    Ok(documents)
}

/// The document of a line, or at which byte, from 1, it is wrong.
fn text(line: &[u8]) -> Result<Cow<'_, str>, (usize, String)> {
    if line.len() > LINE_BYTES_MAX {
        return Err((LINE_BYTES_MAX, format!("the line is longer than {LINE_BYTES_MAX} bytes")));
    }
    let parsed: Result<Line<'_>, _> = serde_json::from_slice(line);
    parsed.map(|line| line.text).map_err(|error| {
        let text = error.to_string();
        // serde_json knows only this one line and calls it the first.
        let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
        (error.column().max(1), problem.to_owned())
    })
}
