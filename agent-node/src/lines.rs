//! Lines of JSON from a process of the agent.

use agent_keeper::order::LINE_BYTES_MAX;
use serde::de::DeserializeOwned;
use std::io;
use std::marker::PhantomData;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Lines from a process. `next` may be abandoned and called again without losing anything.
#[derive(Debug)]
pub(crate) struct Lines<T, S> {
    stream: BufReader<S>,
    line: Vec<u8>,
    what: PhantomData<T>,
}

impl<T: DeserializeOwned, S: AsyncRead + Unpin> Lines<T, S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream), line: Vec::new(), what: PhantomData }
    }

    /// The next line; `None` at the end of the stream.
    ///
    /// # Errors
    /// The stream broke, or a line is not what it should be.
    pub(crate) async fn next(&mut self) -> io::Result<Option<T>> {
        loop {
            let available = self.stream.fill_buf().await?;
            if available.is_empty() {
                // A line without an end was cut by the death of its writer.
                return Ok(None);
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let length = newline.map_or(available.len(), |position| position + 1);
            self.line.extend_from_slice(&available[..length]);
            self.stream.consume(length);
            if newline.is_some() {
                let record = serde_json::from_slice(&self.line);
                self.line.clear();
                return record.map(Some).map_err(io::Error::other);
            }
            if self.line.len() > LINE_BYTES_MAX {
                return Err(io::Error::other("a record is too long"));
            }
        }
    }
}
