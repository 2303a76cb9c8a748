//! What a person sees while trials run: [`state`] is counted out of events and knows nothing of
//! terminals; [`bars`] and [`plain`] draw it. [`label`] names a trial in a few words.

pub(crate) mod bars;
pub(crate) mod follow;
pub(crate) mod label;
pub(crate) mod note;
pub(crate) mod plain;
pub(crate) mod state;
