//! What an agent noticed about how a trial trains.

use serde::{Deserialize, Serialize};

/// Bytes of a notice's text at most.
pub const NOTICE_BYTES_MAX: usize = 256;
/// Notices of one trial that are kept at most; later ones say nothing new.
pub const NOTICES_MAX: usize = 64;

/// Something about a trial's training that a person should know and that ends nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notice {
    /// What.
    pub kind: NoticeKind,
    /// The last step that was reported before.
    pub step: u64,
    /// With numbers and units; at most [`NOTICE_BYTES_MAX`] bytes.
    pub text: String,
}

/// Kinds of notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// A metric is NaN or infinite.
    NotANumber,
    /// One step took far longer than usual.
    SlowStep,
    /// All steps take far longer than before.
    SlowTraining,
    /// No step comes any more.
    Hang,
}

impl NoticeKind {
    /// For people and labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotANumber => "not a number",
            Self::SlowStep => "slow step",
            Self::SlowTraining => "slow training",
            Self::Hang => "hang",
        }
    }
}

impl Notice {
    /// A notice whose text is cut to its limit.
    pub fn new(kind: NoticeKind, step: u64, text: impl Into<String>) -> Self {
        let mut text = text.into();
        let mut end = text.len().min(NOTICE_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self { kind, step, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        let notice = Notice::new(NoticeKind::NotANumber, 1, "é".repeat(NOTICE_BYTES_MAX));
        assert_eq!(notice.text.len(), NOTICE_BYTES_MAX);
        let odd = Notice::new(NoticeKind::Hang, 1, format!("a{}", "é".repeat(NOTICE_BYTES_MAX)));
        assert_eq!(odd.text.len(), NOTICE_BYTES_MAX - 1);
    }
}
