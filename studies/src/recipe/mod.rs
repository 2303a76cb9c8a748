//! YAML text to a checked [`Recipe`].
//!
//! ```text
//! text -> yaml.rs: node.rs, the document with the place of every value
//!      -> reader.rs: a serde deserializer over it that words errors for people
//!      -> raw.rs and each study's raw.rs: the keys, as they are written
//!      -> check(): units, ranges, consistency -> Recipe, and nothing unchecked after it
//! ```
//!
//! A check names a value by its [`Path`]; [`Recipe::parse`] adds the line and the column. All
//! mistakes are found at once; `mistakes.rs` says how.
//!
//! # Adding a study
//!
//! A study is a folder and one line in `section.rs`. The folder `colour/` has
//!
//! * `raw.rs`: `RawColour`, a `Deserialize` struct whose fields are the keys of `spec.study.colour`
//!   (`Option` or `#[serde(default)]` where a key may be left out; unknown keys and wrong types are
//!   refused without further words), and `RawColour::check(self, at: &Path) ->
//!   Result<ColourSpec, Mistakes>`, which refuses what makes no sense with
//!   [`RecipeError::new`]`(&at.key("hues").index(1), "...")`, and names what it compares with
//!   `given`;
//! * `ColourSpec`: `Debug + Clone + PartialEq + Serialize`, valid by construction, with
//!   `wanted(&self) -> Wanted` (which files the client has to read), `needs(&self) -> Needs` (what
//!   executes its trials) and
//!   `study(&self, trial: TrialSettings, inputs: &Inputs) -> Result<Box<dyn Study>, StudyError>`.
//!
//! Its JSON is part of the experiment's id: it holds what decides the results and nothing else.

mod checked;
mod error;
mod mistakes;
#[cfg(test)]
mod mistakes_tests;
mod name;
mod node;
mod policy;
mod quantity;
mod raw;
mod reader;
mod resources;
mod section;
#[cfg(test)]
mod tests;
mod yaml;

pub use checked::{
    DataWanted, Policy, RECIPE_BYTES_MAX, Recipe, StudyError, TrialSettings, Wanted,
};
pub use error::{Path, Place, RecipeError};
pub(crate) use mistakes::{Gathered, all, every};
pub use mistakes::{MISTAKES_MAX, Mistakes};
pub(crate) use name::{NAME_BYTES_MAX, check_name};
pub use quantity::{Bytes, Duration, QuantityError};
pub(crate) use section::Needs;
pub use section::StudySpec;
