//! What trials print: one attempt as it is ([`attempt`]), or all trials of an experiment in lines
//! ([`experiment`], [`lines`], [`queue`]).

pub(crate) mod attempt;
pub(crate) mod experiment;
mod lines;
mod queue;
mod removed;
