//! The edge to the YAML library: text to [`Node`]s. Its types go no further than this file.

use super::error::{Path, Place, RecipeError, plain};
use super::node::{Kind, Node};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, MessageFormatter, Spanned, UserMessageFormatter};
use std::fmt;

/// Deepest nesting. The deepest key of a recipe is 8 levels down; the parser recurses.
const DEPTH_MAX: usize = 32;
/// Most values, which also bounds what aliases may expand to: a recipe is read by people.
const NODES_MAX: usize = 200_000;

/// Reads one YAML document.
///
/// # Errors
/// The text is not YAML, has a duplicate key, or breaks a limit.
pub(super) fn read(text: &str) -> Result<Node, RecipeError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
            // The second is refused with a message of its own.
            max_documents: 2,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: NODES_MAX,
            max_replay_stack_depth: DEPTH_MAX,
        },
        // YAML 1.2: `no` and `on` are texts, not truth values.
        strict_booleans: true,
        emit_comments: false,
        with_snippet: false,
    };
    let document: Spanned<Content> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| refused(&error))?;
    Ok(node(document))
}

fn refused(error: &Error) -> RecipeError {
    let error = error.without_snippet();
    let location = error.location();
    let message = if let Error::DuplicateMappingKey { key: Some(key), .. } = error {
        format!("the key `{}` is written twice", plain(key))
    } else {
        UserMessageFormatter.format_message(error).into_owned()
    };
    let mut refused = RecipeError::new(&Path::default(), plain_message(&message));
    if matches!(error, Error::ExternalMessage { .. }) {
        // The scanner stops where the text makes no sense any more, which is after the mistake.
        refused = refused.hint("check brackets, quotes and indentation up to this place");
    }
    match location {
        Some(location) => refused.or_at(&Path::default(), place(location)),
        None => refused,
    }
}

/// The parser's message on one line; it is longer than a quoted value may be.
fn plain_message(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn place(location: Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

fn node(spanned: Spanned<Content>) -> Node {
    Node {
        place: place(spanned.referenced),
        kind: match spanned.value {
            Content::Scalar(kind) => kind,
            Content::List(items) => Kind::List(items.into_iter().map(node).collect()),
            Content::Section(entries) => Kind::Section(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.value, place(key.referenced), node(value)))
                    .collect(),
            ),
        },
    }
}

enum Content {
    Scalar(Kind),
    List(Vec<Spanned<Content>>),
    Section(Vec<(Spanned<String>, Spanned<Content>)>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Kind::Nothing))
    }
    fn visit_none<E: serde::de::Error>(self) -> Result<Content, E> {
        self.visit_unit()
    }
    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(Kind::Bool(value)))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(Kind::Integer(value.into())))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(Kind::Integer(value.into())))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Scalar(Kind::Number(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(Kind::Text(value.to_owned())))
    }
    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::Scalar(Kind::Text(value)))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Content::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Content::Section(entries))
    }
}
