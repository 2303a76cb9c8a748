//! The document as a tree of values with their places.

use super::error::{Path, Place, Step, plain};

/// A blank that stands nowhere.
pub(super) const BLANK: Node = Node { place: Place { line: 0, column: 0 }, kind: Kind::Blank };

/// A value and its place in the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Nothing,
    Bool(bool),
    Integer(i128),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    /// Keys are unique: the parser refuses the second of two.
    Section(Vec<(String, Place, Node)>),
    /// What a mistake leaves behind: it is read as any type, as the least value that the type has.
    Blank,
}

impl Node {
    /// The place of the value at `path`, or of the innermost section around it that exists.
    pub(crate) fn place_of(&self, path: &Path) -> Place {
        let mut node = self;
        for step in path.steps() {
            let inner = match (step, &node.kind) {
                (Step::Key(key), Kind::Section(_)) => node.get(key),
                (Step::Index(index), Kind::List(items)) => items.get(*index),
                _ => None,
            };
            match inner {
                Some(inner) => node = inner,
                None => break,
            }
        }
        node.place
    }

    /// The value of `key`, when this is a section that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Kind::Section(entries) = &self.kind else {
            return None;
        };
        entries.iter().find(|(name, _, _)| name == key).map(|(_, _, value)| value)
    }

    /// Makes the value at `path` a blank, which a missing key gets too. `false` when there can be
    /// no such value, or it is blank already.
    pub(super) fn erase(&mut self, path: &Path) -> bool {
        let mut node = self;
        for step in path.steps() {
            let place = node.place;
            let inner = match (step, &mut node.kind) {
                (Step::Key(key), Kind::Section(entries)) => {
                    let known = entries.iter().position(|(name, _, _)| name == key);
                    let index = known.unwrap_or_else(|| {
                        entries.push((key.clone(), place, Self { place, kind: Kind::Nothing }));
                        entries.len() - 1
                    });
                    entries.get_mut(index).map(|(_, _, value)| value)
                }
                (Step::Index(index), Kind::List(items)) => items.get_mut(*index),
                _ => None,
            };
            let Some(inner) = inner else { return false };
            node = inner;
        }
        let erased = node.kind != Kind::Blank;
        node.kind = Kind::Blank;
        erased
    }

    /// What stands there, for messages.
    pub(crate) fn found(&self) -> String {
        match &self.kind {
            Kind::Nothing | Kind::Blank => "nothing".to_owned(),
            Kind::Bool(value) => value.to_string(),
            Kind::Integer(value) => format!("the number {value}"),
            Kind::Number(value) => format!("the number {value:?}"),
            Kind::Text(value) => format!("the text \"{}\"", plain(value)),
            Kind::List(_) => "a list".to_owned(),
            Kind::Section(_) => "a section".to_owned(),
        }
    }
}
