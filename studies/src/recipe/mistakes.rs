//! Everything that is wrong with a recipe.
//!
//! serde stops at the first value that it cannot read, so [`read`] makes that value a blank and
//! begins again. A check goes on by itself: it gathers its parts with [`all!`] and [`every`], and
//! looks at what relates them when they are right. What is said about a blank is left out, so no
//! mistake is told that only follows from another.

use super::error::{Path, RecipeError};
use super::node::Node;
use super::reader::Reader;
use serde::de::DeserializeOwned;
use std::fmt;

/// Most mistakes that are told at once: more fill a screen, and are of one cause.
pub const MISTAKES_MAX: usize = 20;
/// Most times that a document is read. Each but the last finds a mistake, or makes blank what is
/// around a value that no blank can replace.
const READS_MAX: usize = 2 * MISTAKES_MAX;

/// What is wrong with a recipe: one mistake or more, at most [`MISTAKES_MAX`], by their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<RecipeError>);

impl Mistakes {
    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, RecipeError> {
        self.0.iter()
    }

    /// Adds the places, and sorts by them.
    pub(super) fn in_document(self, document: &Node) -> Self {
        let place = |error: RecipeError| match error.place {
            Some(_) => error,
            None => RecipeError { place: Some(document.place_of(&error.path)), ..error },
        };
        let mut mistakes: Vec<_> = self.0.into_iter().map(place).collect();
        mistakes.sort_by_key(|mistake| mistake.place.map(|place| (place.line, place.column)));
        mistakes.truncate(MISTAKES_MAX);
        Self(mistakes)
    }

    /// Whether there may be more than these.
    pub fn are_cut(&self) -> bool {
        self.0.len() == MISTAKES_MAX
    }
}

impl From<RecipeError> for Mistakes {
    fn from(error: RecipeError) -> Self {
        Self(vec![error])
    }
}

/// One is written as itself; of several, each with its hint below it.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return only.fmt(f);
        }
        for (index, mistake) in self.0.iter().enumerate() {
            let line = if index == 0 { "" } else { "\n" };
            write!(f, "{line}{}", mistake.to_string().replace('\n', "\n  "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// What a check found wrong so far.
#[derive(Debug, Default)]
pub(crate) struct Gathered(Vec<RecipeError>);

impl Gathered {
    /// The value, or `None` when it is wrong.
    pub(crate) fn take<T, E: Into<Mistakes>>(&mut self, checked: Result<T, E>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err(error) => {
                let room = MISTAKES_MAX.saturating_sub(self.0.len());
                self.0.extend(error.into().0.into_iter().take(room));
                None
            }
        }
    }

    pub(crate) fn mistakes(self) -> Mistakes {
        Mistakes(self.0)
    }
}

/// Evaluates every check, also after one that failed; binds their values, or returns all that is
/// wrong from the function around it.
macro_rules! all {
    ($(let $name:ident = $checked:expr;)+) => {
        let mut gathered = $crate::recipe::Gathered::default();
        $(let $name = gathered.take($checked);)+
        let ($(Some($name),)+) = ($($name,)+) else { return Err(gathered.mistakes()) };
    };
}
pub(crate) use all;

/// The value of every check, or all that is wrong.
pub(crate) fn every<T, E: Into<Mistakes>>(
    checks: impl IntoIterator<Item = Result<T, E>>,
) -> Result<Vec<T>, Mistakes> {
    let mut gathered = Gathered::default();
    let values: Vec<T> = checks.into_iter().filter_map(|check| gathered.take(check)).collect();
    if gathered.0.is_empty() { Ok(values) } else { Err(gathered.mistakes()) }
}

/// A document as far as it can be read.
pub(super) struct Read<T> {
    /// `None` when there is too much that cannot.
    value: Option<T>,
    mistakes: Vec<RecipeError>,
    blanks: Vec<Path>,
}

/// Reads `document` and makes blank what cannot be read.
pub(super) fn read<T: DeserializeOwned>(document: &mut Node) -> Read<T> {
    let mut read = Read { value: None, mistakes: Vec::new(), blanks: Vec::new() };
    for _ in 0..READS_MAX {
        match T::deserialize(Reader::new(document)) {
            Ok(value) => {
                read.value = Some(value);
                break;
            }
            Err(error) if read.mistakes.len() < MISTAKES_MAX => read.refuse(error, document),
            Err(_) => break,
        }
    }
    read
}

impl<T> Read<T> {
    fn refuse(&mut self, error: RecipeError, document: &mut Node) {
        let follows = self.rests_on_blank(&error);
        for value in error.values() {
            let mut value = value.clone();
            // A value that cannot be a blank takes along what is around it.
            while !document.erase(&value)
                && let Some(around) = value.around()
            {
                value = around;
            }
            self.blanks.push(value);
        }
        if !follows {
            self.mistakes.push(error);
        }
    }

    fn rests_on_blank(&self, error: &RecipeError) -> bool {
        let blank = |value: &Path| self.blanks.iter().any(|blank| blank.touches(value));
        error.values().iter().any(blank)
    }

    /// What `check` makes of the value, or all that is wrong with the document.
    pub(super) fn check<U>(
        mut self,
        document: &Node,
        check: impl FnOnce(T) -> Result<U, Mistakes>,
    ) -> Result<U, Mistakes> {
        match self.value.take().map(check) {
            Some(Ok(checked)) if self.mistakes.is_empty() => return Ok(checked),
            Some(Ok(_)) | None => {}
            Some(Err(Mistakes(wrong))) => {
                let wrong = wrong.into_iter().filter(|error| !self.rests_on_blank(error));
                let wrong: Vec<_> = wrong.collect();
                self.mistakes.extend(wrong);
            }
        }
        Err(Mistakes(self.mistakes).in_document(document))
    }
}
