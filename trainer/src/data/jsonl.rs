//! Documents of a JSONL file: one JSON object per line, the document is its member `text`.

use super::DataError;
use serde::Deserialize;
use std::borrow::Cow;
use std::path::Path;

/// Longest line. A document of this length is a mistake, such as a file without line ends.
const LINE_BYTES_MAX: usize = 1 << 28;
/// A line. Members with other names are the data set's own.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

/// Gives `take` every document in `content`, that of the file at `path`. Blank lines hold none.
pub(super) fn read(
    content: &[u8],
    path: &Path,
    take: &mut dyn FnMut(&str) -> Result<(), DataError>,
) -> Result<(), DataError> {
    for (line, bytes) in (1..).zip(content.split(|byte| *byte == b'\n')) {
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let text = text(bytes).map_err(|(column, problem)| {
            let path = path.to_owned();
            DataError::Line { path, line, column, problem }
        })?;
        take(&text)?;
    }
    Ok(())
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
