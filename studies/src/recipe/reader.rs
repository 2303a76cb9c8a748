//! A serde deserializer over the document whose errors say where, what was found and what is
//! expected.

use super::error::{Path, Place, RecipeError, nearest, plain};
use super::node::{BLANK, Kind, Node};
use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

/// A [`Node`] that knows its path: what the `Deserialize` implementations of the raw sections read.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    node: &'a Node,
    path: Path,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(node: &'a Node) -> Self {
        Self { node, path: Path::default() }
    }

    fn error(&self, message: impl Into<String>) -> RecipeError {
        RecipeError::new(&self.path, message).or_at(&self.path, self.node.place)
    }

    fn expected(&self, what: &str) -> RecipeError {
        self.error(format!("expected {what}, found {}", self.node.found()))
    }

    fn or_here<T>(&self, result: Result<T, RecipeError>) -> Result<T, RecipeError> {
        result.map_err(|error| error.or_at(&self.path, self.node.place))
    }

    /// The whole number here, within `min..=max`. A number such as `1e6` is whole too.
    fn integer(&self, min: i128, max: i128) -> Result<i128, RecipeError> {
        // Every whole number up to 2^53 is exact as a float.
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        let value = match self.node.kind {
            Kind::Integer(value) => value,
            Kind::Number(value) if value.fract() == 0.0 && value.abs() <= EXACT_MAX => {
                value as i128
            }
            Kind::Blank => return Ok(0.clamp(min, max)),
            Kind::Nothing
            | Kind::Bool(_)
            | Kind::Number(_)
            | Kind::Text(_)
            | Kind::List(_)
            | Kind::Section(_) => return Err(self.expected("a whole number")),
        };
        if value < min {
            return Err(self.error(format!("must be at least {min}, found {value}")));
        }
        if value > max {
            return Err(self.error(format!("must be at most {max}, found {value}")));
        }
        Ok(value)
    }

    /// The entries of the section here, which `what` describes.
    pub(crate) fn section(&self, what: &str) -> Result<&'a [(String, Place, Node)], RecipeError> {
        match &self.node.kind {
            Kind::Section(entries) => Ok(entries),
            Kind::Blank => Ok(&[]),
            Kind::Nothing
            | Kind::Bool(_)
            | Kind::Integer(_)
            | Kind::Number(_)
            | Kind::Text(_)
            | Kind::List(_) => Err(self.expected(what)),
        }
    }

    /// The items of the list here; of a blank, `length` of them.
    fn items(&self, length: usize) -> Result<Items<'_, 'a>, RecipeError> {
        let nodes: Vec<&Node> = match &self.node.kind {
            Kind::List(items) => items.iter().collect(),
            Kind::Blank => vec![&BLANK; length],
            Kind::Nothing
            | Kind::Bool(_)
            | Kind::Integer(_)
            | Kind::Number(_)
            | Kind::Text(_)
            | Kind::Section(_) => {
                return Err(self.expected("a list").hint("a list is written [a, b]"));
            }
        };
        Ok(Items { path: &self.path, nodes: nodes.into_iter().enumerate() })
    }

    /// The entries whose keys are in `fields`. Any other is refused, unless it has been already.
    fn known(
        &self,
        entries: &'a [(String, Place, Node)],
        fields: &[&str],
    ) -> Result<Vec<Entry<'a>>, RecipeError> {
        let mut known = Vec::new();
        for (key, place, value) in entries {
            if fields.contains(&key.as_str()) {
                known.push((key.as_str(), *place, value));
            } else if value.kind != Kind::Blank {
                let error = self.unknown("key", key, *place, fields);
                // What was meant is not missing, only misspelt.
                let meant = nearest(key, fields).filter(|meant| self.node.get(meant).is_none());
                let values = [key.as_str()].into_iter().chain(meant);
                return Err(error.about(values.map(|key| self.path.key(key))));
            }
        }
        Ok(known)
    }

    /// Refuses `name` because it is not in `known`.
    fn unknown(&self, what: &str, name: &str, place: Place, known: &[&str]) -> RecipeError {
        let message = format!("unknown {what} `{}`", plain(name));
        let error = RecipeError::new(&self.path, message).or_at(&self.path, place);
        match (nearest(name, known), known) {
            (Some(key), _) => error.hint(format!("did you mean `{key}`?")),
            (None, []) => error.hint("this section has no keys; write {}"),
            (None, _) => {
                let names: Vec<_> = known.iter().map(|key| format!("`{key}`")).collect();
                error.hint(format!("known: {}", names.join(", ")))
            }
        }
    }
}

macro_rules! integers {
    ($($method:ident => $visit:ident, $type:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RecipeError> {
            let value = self.integer(<$type>::MIN.into(), <$type>::MAX.into())?;
            let value = <$type>::try_from(value).expect("the range was checked");
            let result = visitor.$visit(value);
            self.or_here(result)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = RecipeError;

    integers! {
        deserialize_i8 => visit_i8, i8;
        deserialize_i16 => visit_i16, i16;
        deserialize_i32 => visit_i32, i32;
        deserialize_i64 => visit_i64, i64;
        deserialize_u8 => visit_u8, u8;
        deserialize_u16 => visit_u16, u16;
        deserialize_u32 => visit_u32, u32;
        deserialize_u64 => visit_u64, u64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RecipeError> {
        let result = match &self.node.kind {
            Kind::Nothing => visitor.visit_unit(),
            Kind::Blank => visitor.visit_borrowed_str(""),
            Kind::Bool(value) => visitor.visit_bool(*value),
            Kind::Integer(value) if *value < 0 => return self.deserialize_i64(visitor),
            Kind::Integer(_) => return self.deserialize_u64(visitor),
            Kind::Number(value) => visitor.visit_f64(*value),
            Kind::Text(value) => visitor.visit_borrowed_str(value),
            Kind::List(_) => return self.deserialize_seq(visitor),
            Kind::Section(_) => return self.deserialize_map(visitor),
        };
        self.or_here(result)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RecipeError> {
        let value = match self.node.kind {
            Kind::Bool(value) => value,
            Kind::Blank => false,
            Kind::Nothing
            | Kind::Integer(_)
            | Kind::Number(_)
            | Kind::Text(_)
            | Kind::List(_)
            | Kind::Section(_) => return Err(self.expected("true or false")),
        };
        let result = visitor.visit_bool(value);
        self.or_here(result)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RecipeError> {
        let value = match self.node.kind {
            Kind::Integer(value) => value as f64,
            Kind::Number(value) if value.is_finite() => value,
            Kind::Blank => 0.0,
            Kind::Nothing
            | Kind::Bool(_)
            | Kind::Number(_)
            | Kind::Text(_)
            | Kind::List(_)
            | Kind::Section(_) => return Err(self.expected("a number")),
        };
        let result = visitor.visit_f64(value);
        self.or_here(result)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RecipeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RecipeError> {
        let result = match &self.node.kind {
            Kind::Text(value) => visitor.visit_borrowed_str(value),
            Kind::Blank => visitor.visit_borrowed_str(""),
            Kind::Bool(_) | Kind::Integer(_) | Kind::Number(_) => {
                return Err(self.expected("a text").hint("put it in quotes"));
            }
            Kind::Nothing | Kind::List(_) | Kind::Section(_) => {
                return Err(self.expected("a text"));
            }
        };
        self.or_here(result)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RecipeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RecipeError> {
        if matches!(self.node.kind, Kind::Nothing | Kind::Blank) {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, RecipeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RecipeError> {
        let result = visitor.visit_seq(self.items(0)?);
        self.or_here(result)
    }

    /// A list of exactly `length` items, for example the bounds of a range.
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, RecipeError> {
        let items = self.items(length)?;
        let found = items.nodes.len();
        if found != length {
            return Err(self.error(format!("expected a list of {length} values, found {found}")));
        }
        let result = visitor.visit_seq(items);
        self.or_here(result)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, RecipeError> {
        let entries = self.section("a section of keys and values")?;
        let entries = entries.iter().map(|(key, place, value)| (key.as_str(), *place, value));
        let result = visitor.visit_map(Entries::new(&self.path, entries.collect()));
        self.or_here(result)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RecipeError> {
        let what = match fields {
            [] => "an empty section, written {}".to_owned(),
            _ => format!("a section with {}", fields.join(", ")),
        };
        let entries = match self.section(&what)? {
            _ if self.node.kind == Kind::Blank => {
                fields.iter().map(|key| (*key, BLANK.place, &BLANK)).collect()
            }
            entries => self.known(entries, fields)?,
        };
        #[cfg(test)]
        absent::note(self.node, fields, &self.path);
        let result = visitor.visit_map(Entries::new(&self.path, entries));
        self.or_here(result)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RecipeError> {
        let choice = match &self.node.kind {
            Kind::Blank => {
                (variants.first().copied().unwrap_or(""), self.node.place, Some(self.node))
            }
            Kind::Text(name) => (name.as_str(), self.node.place, None),
            Kind::Section(entries) => match entries.as_slice() {
                [(name, place, value)] => (name.as_str(), *place, Some(value)),
                entries => {
                    return Err(self.error(format!(
                        "expected exactly one of {}, found {} keys",
                        variants.join(", "),
                        entries.len()
                    )));
                }
            },
            Kind::Nothing | Kind::Bool(_) | Kind::Integer(_) | Kind::Number(_) | Kind::List(_) => {
                return Err(self.expected(&format!("one of {}", variants.join(", "))));
            }
        };
        let (name, place, value) = choice;
        if !variants.contains(&name) {
            return Err(self.unknown("name", name, place, variants));
        }
        let result = visitor.visit_enum(Variant {
            name,
            content: value.map(|node| Reader { node, path: self.path.key(name) }),
        });
        self.or_here(result)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple_struct identifier ignored_any
    }
}

struct Items<'p, 'de> {
    path: &'p Path,
    nodes: std::iter::Enumerate<std::vec::IntoIter<&'de Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de> {
    type Error = RecipeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, RecipeError> {
        let Some((index, node)) = self.nodes.next() else {
            return Ok(None);
        };
        let path = self.path.index(index);
        seed.deserialize(Reader { node, path }).map(Some)
    }
}

/// A key with its place, and its value.
type Entry<'de> = (&'de str, Place, &'de Node);

struct Entries<'p, 'de> {
    path: &'p Path,
    entries: std::vec::IntoIter<Entry<'de>>,
    value: Option<(&'de str, &'de Node)>,
}

impl<'p, 'de> Entries<'p, 'de> {
    fn new(path: &'p Path, entries: Vec<Entry<'de>>) -> Self {
        Self { path, entries: entries.into_iter(), value: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
    type Error = RecipeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, RecipeError> {
        let Some((key, place, node)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((key, node));
        seed.deserialize(BorrowedStrDeserializer::new(key))
            .map(Some)
            .map_err(|error: RecipeError| error.or_at(self.path, place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, RecipeError> {
        let (key, node) = self.value.take().expect("serde asks for the key first");
        let path = self.path.key(key);
        seed.deserialize(Reader { node, path })
    }
}

struct Variant<'de> {
    name: &'de str,
    content: Option<Reader<'de>>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = RecipeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), RecipeError> {
        let name: StrDeserializer<'_, RecipeError> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = RecipeError;

    fn unit_variant(self) -> Result<(), RecipeError> {
        match self.content {
            None => Ok(()),
            Some(reader) if reader.node.kind == Kind::Blank => Ok(()),
            Some(reader) => Err(reader
                .error(format!("`{}` has no settings", self.name))
                .hint(format!("write only {}", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, RecipeError> {
        match self.content {
            Some(reader) => seed.deserialize(reader),
            None => Err(missing_settings(self.name)),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, RecipeError> {
        match self.content {
            Some(reader) => reader.deserialize_tuple(length, visitor),
            None => Err(missing_settings(self.name)),
        }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, RecipeError> {
        match self.content {
            Some(reader) => reader.deserialize_struct("", fields, visitor),
            None => Err(missing_settings(self.name)),
        }
    }
}

fn missing_settings(name: &str) -> RecipeError {
    RecipeError::new(&Path::default(), format!("`{name}` needs its settings"))
        .hint(format!("write {name}: {{...}}"))
}

/// Which keys a recipe leaves out: the reference recipes must leave out none.
#[cfg(test)]
pub(super) mod absent {
    use super::{Node, Path};
    use std::cell::RefCell;

    thread_local! {
        static ABSENT: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(node: &Node, fields: &[&str], path: &Path) {
        let left_out = fields.iter().filter(|field| node.get(field).is_none());
        let names = left_out.map(|field| path.key(field).to_string());
        ABSENT.with_borrow_mut(|absent| absent.extend(names));
    }

    /// The keys that were left out since the last call, on this thread.
    pub(in crate::recipe) fn take() -> Vec<String> {
        ABSENT.take()
    }
}
