//! JSON text from values and values from JSON: the edge where documents become text.
//!
//! Promise: numbers keep every digit. It deliberately refuses what a document cannot hold
//! (numbers beyond 28 digits, nesting beyond [`DEPTH_MAX`]) instead of rounding or cutting.

use rust_decimal::Decimal;
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::doc::{DEPTH_MAX, Doc, DocWriter, KEY_BYTES_MAX};
use crate::node::{Node, NodeKind};

/// JSON that a document cannot hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JsonError {
    /// A number with more digits than an exact decimal has.
    #[error("number {0} has more than 28 digits or is out of range")]
    Number(String),
    /// Lists and maps nested too deep.
    #[error("nested deeper than {DEPTH_MAX} levels")]
    Depth,
    /// An attribute name that is too long.
    #[error("an attribute name is longer than {KEY_BYTES_MAX} bytes")]
    Key,
}

/// The value as compact JSON text.
pub fn to_string(node: Node<'_>) -> String {
    serde_json::to_string(&node).expect("a value is always JSON")
}

/// A document from parsed JSON.
///
/// # Errors
/// When a number, a name or the nesting is more than a document holds.
pub fn to_doc(value: &serde_json::Value) -> Result<Doc, JsonError> {
    check(value, 0)?;
    Ok(Doc::build(|w| write(w, value)))
}

/// The value as parsed JSON.
pub fn to_value(node: Node<'_>) -> serde_json::Value {
    serde_json::to_value(node).expect("a value is always JSON")
}

fn decimal(number: &serde_json::Number) -> Option<Decimal> {
    let text = number.to_string();
    text.parse().or_else(|_| Decimal::from_scientific(&text)).ok()
}

fn check(value: &serde_json::Value, depth: usize) -> Result<(), JsonError> {
    if depth >= DEPTH_MAX {
        return Err(JsonError::Depth);
    }
    match value {
        serde_json::Value::Number(number) if decimal(number).is_none() => {
            Err(JsonError::Number(number.to_string()))
        }
        serde_json::Value::Array(list) => list.iter().try_for_each(|v| check(v, depth + 1)),
        serde_json::Value::Object(map) => map.iter().try_for_each(|(key, v)| {
            if key.len() > KEY_BYTES_MAX { Err(JsonError::Key) } else { check(v, depth + 1) }
        }),
        _ => Ok(()),
    }
}

fn write(w: &mut DocWriter, value: &serde_json::Value) {
    match value {
        serde_json::Value::Null => w.null(),
        serde_json::Value::Bool(value) => w.bool(*value),
        serde_json::Value::Number(number) => w.number(decimal(number).expect("checked before")),
        serde_json::Value::String(text) => w.str(text),
        serde_json::Value::Array(list) => w.list(|w| list.iter().for_each(|v| write(w, v))),
        serde_json::Value::Object(map) => {
            let mut sorted: Vec<_> = map.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(b.0));
            w.map(|w| {
                for (key, value) in sorted {
                    w.key(key);
                    write(w, value);
                }
            });
        }
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.kind() {
            NodeKind::Null => serializer.serialize_unit(),
            NodeKind::Bool(value) => serializer.serialize_bool(value),
            NodeKind::Number(number) => serialize_number(number, serializer),
            NodeKind::Str(text) => serializer.serialize_str(text),
            NodeKind::List => {
                let mut list = serializer.serialize_seq(None)?;
                self.elements(|element| list.serialize_element(&element))?;
                list.end()
            }
            NodeKind::Map => {
                let mut map = serializer.serialize_map(None)?;
                self.entries(|name, value| map.serialize_entry(name, &value))?;
                map.end()
            }
        }
    }
}

fn serialize_number<S: Serializer>(number: Decimal, serializer: S) -> Result<S::Ok, S::Error> {
    match i64::try_from(number.mantissa()) {
        Ok(whole) if number.scale() == 0 => serializer.serialize_i64(whole),
        _ => RawValue::from_string(number.to_string())
            .map_err(S::Error::custom)?
            .serialize(serializer),
    }
}

impl Serialize for Doc {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Node::from(self.view()).serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Doc {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Doc, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        to_doc(&value).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_in_and_comes_out_the_same_with_names_sorted() {
        let text = r#"{"b":[1,-2.5,"x",null,true],"a":{"z":{},"y":[]},"n":123456789012345678}"#;
        let value: serde_json::Value = serde_json::from_str(text).expect("valid");
        let doc = to_doc(&value).expect("fits");
        let sorted = r#"{"a":{"y":[],"z":{}},"b":[1,-2.5,"x",null,true],"n":123456789012345678}"#;
        assert_eq!(to_string(doc.view().into()), sorted);
        assert_eq!(Doc::from_bytes(doc.bytes()), Ok(doc));
    }

    #[test]
    fn what_a_document_cannot_hold_is_refused() {
        let deep = (0..100).fold(serde_json::json!(1), |inner, _| serde_json::json!([inner]));
        assert_eq!(to_doc(&deep), Err(JsonError::Depth));
        assert!(to_doc(&serde_json::json!({"n": 1e300})).is_err());
    }
}
