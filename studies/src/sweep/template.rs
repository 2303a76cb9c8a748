//! Texts with `{name}` in them.

use proto::Value;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// The name that stands for the trial's seed.
pub(super) const SEED: &str = "seed";

/// A text in which `{name}` stands for a parameter's value and `{seed}` for the trial's seed;
/// `{{` and `}}` are single braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(String),
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    /// `{` without its `}`.
    #[error("`{{` is not closed")]
    Open,
    /// `}` without its `{`.
    #[error("`}}` closes nothing")]
    Close,
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..];
            if brace.starts_with("{{") || brace.starts_with("}}") {
                plain.push_str(&brace[..1]);
                rest = &brace[2..];
                continue;
            }
            let inner = brace.strip_prefix('{').ok_or(TemplateError::Close)?;
            let (name, after) = inner.split_once('}').ok_or(TemplateError::Open)?;
            if name.contains('{') {
                return Err(TemplateError::Open);
            }
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Name(name.to_owned()));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The names in it, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Name(name) => Some(name.as_str()),
        })
    }

    /// The text with every name replaced. The recipe's check made sure that all names exist.
    pub(super) fn fill(&self, parameters: &BTreeMap<String, Value>, seed: u64) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Name(name) if name == SEED => text.push_str(&seed.to_string()),
                Part::Name(name) => match parameters.get(name) {
                    Some(value) => text.push_str(&value.to_string()),
                    None => unreachable!("the recipe's check refused the name {name}"),
                },
            }
        }
        text
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, TemplateError>) {
        let parameters = BTreeMap::from([
            ("lr".to_owned(), Value::Number(1e-4)),
            ("name".to_owned(), Value::Text("{lr}".into())),
        ]);
        let filled = Template::parse(text).map(|template| template.fill(&parameters, 7));
        assert_eq!(filled, expected.map(str::to_owned), "{text:?}");
    }

    #[test]
    fn names_become_values() {
        check("--lr={lr}", Ok("--lr=0.0001"));
        check("{lr}{lr}-{seed}", Ok("0.00010.0001-7"));
        check("plain", Ok("plain"));
        check("", Ok(""));
        check("ä{lr}ö", Ok("ä0.0001ö"));
        // A value is never filled in again.
        check("{name}", Ok("{lr}"));
        check("{{lr}}", Ok("{lr}"));
        check("{{{lr}}}", Ok("{0.0001}"));
        check("{lr", Err(TemplateError::Open));
        check("{a{lr}", Err(TemplateError::Open));
        check("lr}", Err(TemplateError::Close));
    }

    proptest! {
        #[test]
        fn escaped_text_comes_out_as_it_was(text in "[a{}ä]{0,20}") {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            let template = Template::parse(&escaped).unwrap();
            prop_assert_eq!(template.fill(&BTreeMap::new(), 0), text);
        }
    }
}
