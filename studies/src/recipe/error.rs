//! What is wrong with a recipe: where, what, and what to do.

use serde::de::{Expected, Unexpected};
use std::fmt;

/// Why a recipe was refused. Shown as
///
/// ```text
/// spec.resources.memory (line 9, column 11): needs a unit
/// hint: write 8GiB
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeError {
    /// The value that is wrong; empty when the document as a whole is.
    pub path: Path,
    /// Where it stands in the text.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// The values that it is about; the one at `path` when empty.
    pub(super) about: Vec<Path>,
}

impl RecipeError {
    /// The value at `path` is wrong. [`Recipe::parse`](super::Recipe::parse) finds its place.
    pub fn new(path: &Path, message: impl Into<String>) -> Self {
        let (path, message) = (path.clone(), message.into());
        Self { path, place: None, message, hint: None, about: Vec::new() }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `key` is missing in the section at `path`.
    pub(crate) fn missing(path: &Path, key: &str) -> Self {
        Self::new(path, format!("the key `{key}` is missing")).about([path.key(key)])
    }

    /// Says that it is a mistake only beside these values. When one of them could not be read,
    /// nobody can tell, and it is left out.
    #[must_use]
    pub(crate) fn given(self, values: impl IntoIterator<Item = Path>) -> Self {
        let own = self.values().to_vec();
        self.about(own.into_iter().chain(values))
    }

    /// Says that it is about these values, not about the one at its path.
    #[must_use]
    pub(crate) fn about(mut self, values: impl IntoIterator<Item = Path>) -> Self {
        self.about = values.into_iter().collect();
        self
    }

    /// The values that it is about.
    pub(super) fn values(&self) -> &[Path] {
        if self.about.is_empty() { std::slice::from_ref(&self.path) } else { &self.about }
    }

    /// Says where, unless an inner value has said it already.
    pub(crate) fn or_at(mut self, path: &Path, place: Place) -> Self {
        if self.place.is_none() {
            for value in &mut self.about {
                value.0.splice(0..0, path.0.iter().cloned());
            }
            self.path = path.clone();
            self.place = Some(place);
        }
        self
    }
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path.is_root(), self.place) {
            (true, None) => {}
            (true, Some(place)) => write!(f, "{place}: ")?,
            (false, None) => write!(f, "{}: ", self.path)?,
            (false, Some(place)) => write!(f, "{} ({place}): ", self.path)?,
        }
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for RecipeError {}

/// What separates the message from the hint in an error of a `Deserialize` implementation, which
/// can pass on only one text.
pub(crate) const HINT: &str = "\nhint: ";

impl serde::de::Error for RecipeError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        let text = text.to_string();
        let error = |message| Self::new(&Path::default(), message);
        match text.split_once(HINT) {
            Some((message, hint)) => error(message).hint(hint),
            None => error(&text),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = if found == Unexpected::Unit {
            "nothing".to_owned()
        } else if found == Unexpected::Seq {
            "a list".to_owned()
        } else if found == Unexpected::Map {
            "a section".to_owned()
        } else if let Unexpected::Str(text) = found {
            format!("the text \"{}\"", plain(text))
        } else {
            found.to_string()
        };
        Self::new(&Path::default(), format!("expected {expected}, found {found}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::missing(&Path::default(), field)
    }
}

/// A place in the text; both count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// The way to a value, for example `spec.study.isoflop.flop_budgets[1]`. The default is the
/// document itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl Path {
    /// The value of `key` in this section.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// The item at `index` of this list, from 0.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The list or section around the value; `None` for the document.
    pub(super) fn around(&self) -> Option<Self> {
        let (_, around) = self.0.split_last()?;
        Some(Self(around.to_vec()))
    }

    /// Whether one of the two values is inside the other, or they are the same.
    pub(super) fn touches(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(own, others)| own == others)
    }

    fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if place == 0 => write!(f, "{}", plain(key))?,
                Step::Key(key) => write!(f, ".{}", plain(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Longest part of the recipe's own text that a message repeats, in characters.
const QUOTED_CHARACTERS_MAX: usize = 60;

/// `text` on one line, without control characters and not too long for a message.
pub(crate) fn plain(text: &str) -> String {
    let mut characters = text.chars();
    let head: String = characters.by_ref().take(QUOTED_CHARACTERS_MAX).collect();
    let escaped: String = head
        .chars()
        .flat_map(|c| {
            let escape = c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
            let shown: Box<dyn Iterator<Item = char>> =
                if escape { Box::new(c.escape_debug()) } else { Box::new(std::iter::once(c)) };
            shown
        })
        .collect();
    match characters.next() {
        Some(_) => format!("{escaped}..."),
        None => escaped,
    }
}

/// The name in `known` that `name` was probably meant to be.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Below this similarity (1 is equal) a guess confuses more than it helps.
    const SIMILARITY_MIN: f64 = 0.75;
    // The distance needs memory by the square of the length.
    if name.len() > 4 * QUOTED_CHARACTERS_MAX {
        return None;
    }
    let scored = known.iter().map(|key| (strsim::jaro_winkler(name, key), *key));
    scored
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_where_what_and_what_to_do() {
        let path = Path::default().key("spec").key("budgets").index(1);
        let place = Place { line: 9, column: 11 };
        let error = RecipeError::new(&path, "must be positive").hint("write 1e9");
        assert_eq!(error.to_string(), "spec.budgets[1]: must be positive\nhint: write 1e9");
        assert_eq!(
            error.or_at(&Path::default(), place).to_string(),
            "line 9, column 11: must be positive\nhint: write 1e9"
        );
        let error = RecipeError::new(&Path::default(), "too long").or_at(&path, place);
        let expected = "spec.budgets[1] (line 9, column 11): too long";
        assert_eq!(error.clone().or_at(&Path::default(), place).to_string(), expected);
    }

    #[test]
    fn repeated_text_stays_short_and_on_one_line() {
        assert_eq!(plain("a\n\u{1b}b"), "a\\n\\u{1b}b");
        assert_eq!(plain(&"x".repeat(61)), format!("{}...", "x".repeat(60)));
    }

    #[test]
    fn a_guess_is_made_only_when_it_is_near() {
        let known = ["flop_budgets", "widths", "fit"];
        assert_eq!(nearest("flop_budget", &known), Some("flop_budgets"));
        assert_eq!(nearest("flops_budgets", &known), Some("flop_budgets"));
        assert_eq!(nearest("withs", &known), Some("widths"));
        assert_eq!(nearest("colour", &known), None);
    }
}
