//! Numbers in JSON that may be undefined. JSON has no NaN, so writers differ: Python writes a bare
//! `NaN`, JavaScript and Rust write `null`. All of them are read; texts are written.

use serde::{Deserializer, Serializer};
use std::borrow::Cow;

/// Writes a finite number as it is, any other as a text.
///
/// # Errors
/// The serializer's own.
pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        return serializer.serialize_f64(*value);
    }
    serializer.collect_str(value)
}

/// Reads a number, `null` (NaN) or a text such as `"NaN"`, `"inf"` or `"-Infinity"`.
///
/// # Errors
/// Anything else.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    struct Visitor;
    impl serde::de::Visitor<'_> for Visitor {
        type Value = f64;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a number, null, \"NaN\" or \"inf\"")
        }
        fn visit_f64<E>(self, value: f64) -> Result<f64, E> {
            Ok(value)
        }
        fn visit_i64<E>(self, value: i64) -> Result<f64, E> {
            Ok(value as f64)
        }
        fn visit_u64<E>(self, value: u64) -> Result<f64, E> {
            Ok(value as f64)
        }
        fn visit_unit<E>(self) -> Result<f64, E> {
            Ok(f64::NAN)
        }
        fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<f64, E> {
            let parsed = value.parse::<f64>().ok().filter(|number| !number.is_finite());
            parsed.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(value), &self))
        }
    }
    deserializer.deserialize_any(Visitor)
}

/// Puts quotes round the bare `NaN`, `Infinity` and `-Infinity` of a JSON text, outside of strings.
pub fn quote_undefined(json: &str) -> Cow<'_, str> {
    const WORDS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    if !WORDS.iter().any(|word| json.contains(word)) {
        return Cow::Borrowed(json);
    }
    let mut quoted = String::with_capacity(json.len() + 2);
    let mut in_string = false;
    let mut rest = json;
    while let Some(character) = rest.chars().next() {
        let word = WORDS.iter().find(|word| !in_string && rest.starts_with(**word));
        if let Some(word) = word {
            quoted.extend(["\"", word, "\""]);
            rest = &rest[word.len()..];
            continue;
        }
        // Inside a string a backslash protects the next character, quotes included.
        let escaped = in_string && character == '\\';
        let length = if escaped {
            rest.chars().take(2).map(char::len_utf8).sum()
        } else {
            character.len_utf8()
        };
        in_string ^= character == '"';
        quoted.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    Cow::Owned(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: &str) {
        assert_eq!(quote_undefined(json), expected);
    }

    #[test]
    fn only_bare_words_are_quoted() {
        check(r#"{"a": NaN}"#, r#"{"a": "NaN"}"#);
        check(r#"{"a":-Infinity,"b":Infinity}"#, r#"{"a":"-Infinity","b":"Infinity"}"#);
        check(r#"{"NaN": 1, "x": "NaN"}"#, r#"{"NaN": 1, "x": "NaN"}"#);
        check(r#"{"a\"NaN": NaN}"#, r#"{"a\"NaN": "NaN"}"#);
        check(r#""\\" NaN"#, r#""\\" "NaN""#);
        check("\"unterminated \\", "\"unterminated \\");
    }

    #[test]
    fn undefined_numbers_survive_json() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct One(#[serde(with = "super")] f64);
        for value in [1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let text = serde_json::to_string(&One(value)).unwrap();
            let back: One = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0.to_bits(), value.to_bits(), "{text}");
        }
    }
}
