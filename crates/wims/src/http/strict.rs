//! Strict reading of JSON request bodies: first a small tree that keeps what is given twice, then
//! typed fields, taken out of it by name.
//!
//! Promise: nothing in a body is guessed, rounded or let pass unseen, and all that is wrong with
//! its fields (missing, given twice, of the wrong kind, out of bounds, unknown) is told at once.
//! No body, however deep, overflows the stack. A body in order costs little more than its tree:
//! names and texts are moved, never copied, and no message is written.
//!
//! Deliberately absent: coercion (`"7"` or `7.0` for 7, null for an absent field), defaults, the
//! bound on a body's bytes (who reads the body has it), and HTTP: a refusal has no status here.

pub mod values;

use std::fmt;
use std::ops::RangeInclusive;
use std::str::Utf8Error;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use values::{currency, customer_id, text_of, whole_number};

/// More findings help nobody, and a body full of unknown fields shall not draw a reply many times
/// its size.
const ERRORS_MAX: usize = 64;

/// A JSON value as it was sent: objects keep their order and what is given twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`, which is not the same as an absent field.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number written as an integer, within 64 bits.
    Int(i64),
    /// Any other number: with a fraction, an exponent, beyond 64 bits, or `-0`.
    Float(f64),
    /// Text, its escapes resolved.
    Str(String),
    /// A list.
    List(Vec<Json>),
    /// An object's fields.
    Object(Vec<(String, Json)>),
}

/// A body that cannot be read as JSON at all; the message is a sentence for its sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseRefusal {
    /// What is wrong, and where: lines, columns and bytes count from 1.
    pub message: String,
}

/// What is wrong with one field; `message` continues the sentence that its name begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's name, or nothing when it is the body itself.
    pub field: String,
    /// Such as `is missing`.
    pub message: String,
}

/// The fields of one object, taken out by name; what goes wrong is gathered until `finish`.
///
/// Every field is taken before the first `?`, so that no error hides another:
///
/// ```text
/// let mut fields = Fields::of(json);
/// let customer_id = fields.customer_id("customerId");
/// let quantity = fields.required_int("quantity", 1..=QUANTITY_MAX);
/// fields.refuse("reason", "is not supported yet");
/// fields.finish(|| Some(NewOrder { customer_id: customer_id?, quantity: quantity? }))
/// ```
#[derive(Debug)]
pub struct Fields {
    /// Those not taken yet, sorted by name, each name once.
    left: Vec<(String, Json)>,
    errors: Vec<FieldError>,
    /// Whoever sends no object at all is told that, and not also every field it lacks.
    is_object: bool,
}

/// Reads a whole body as one JSON value of at most 127 levels.
///
/// # Errors
/// When the body is empty, not UTF-8, not JSON, nested deeper, or goes on after the value.
pub fn parse(body: &[u8]) -> Result<Json, ParseRefusal> {
    let text = str::from_utf8(body).map_err(not_utf8)?;
    serde_json::from_str(text).map_err(|error| not_json(text, &error))
}

fn not_utf8(error: Utf8Error) -> ParseRefusal {
    let byte = error.valid_up_to() + 1;
    ParseRefusal { message: format!("the body is not UTF-8 (byte {byte})") }
}

fn not_json(text: &str, error: &serde_json::Error) -> ParseRefusal {
    let cause = error.to_string();
    let message = if text.trim_ascii().is_empty() {
        "the body is empty; send a JSON object".to_owned()
    } else if cause.starts_with("recursion limit exceeded") {
        // serde_json tells this kind by its wording alone; a test holds on to it.
        "the body is nested too deeply".to_owned()
    } else {
        format!("the body is not JSON: {cause}")
    };
    ParseRefusal { message }
}

impl Fields {
    /// The fields of an object; anything else, and any name given twice, is an error already.
    ///
    /// Of a name given twice the first value stays, to be checked like any other.
    pub fn of(json: Json) -> Fields {
        let mut errors = Vec::new();
        let (left, is_object) = match json {
            Json::Object(fields) => (without_repeats(fields, &mut errors), true),
            other @ (Json::Null
            | Json::Bool(_)
            | Json::Int(_)
            | Json::Float(_)
            | Json::Str(_)
            | Json::List(_)) => {
                note(&mut errors, "", format!("must be a JSON object, not {}", other.kind()));
                (Vec::new(), false)
            }
        };
        Fields { left, errors, is_object }
    }

    /// Text of so many characters, control characters and blanks included.
    pub fn required_text(&mut self, name: &str, chars: RangeInclusive<usize>) -> Option<String> {
        self.required(name, |value| text_of(value, &chars))
    }

    /// A customer's id: 1 to 128 printable characters, not all blank, kept as they are; or an
    /// integer, taken as its decimal text.
    pub fn customer_id(&mut self, name: &str) -> Option<String> {
        self.required(name, customer_id)
    }

    /// An integer within bounds.
    pub fn required_int(&mut self, name: &str, allowed: RangeInclusive<i64>) -> Option<i64> {
        self.required(name, |value| whole_number(&value, &allowed))
    }

    /// As `required_int`, but the field may be absent.
    pub fn optional_int(&mut self, name: &str, allowed: RangeInclusive<i64>) -> Option<i64> {
        self.optional(name, |value| whole_number(&value, &allowed))
    }

    /// A currency's code by its form (ISO 4217); whether there is such a currency is not asked.
    pub fn optional_currency(&mut self, name: &str) -> Option<String> {
        self.optional(name, currency)
    }

    /// `true` or `false`.
    pub fn optional_bool(&mut self, name: &str) -> Option<bool> {
        self.optional(name, |json| match json {
            Json::Bool(value) => Ok(value),
            Json::Null
            | Json::Int(_)
            | Json::Float(_)
            | Json::Str(_)
            | Json::List(_)
            | Json::Object(_) => Err("must be true or false".into()),
        })
    }

    /// An object, if it is there, whose own fields `read` takes and finishes; of an error the field
    /// is told as `shipTo.city`.
    pub fn optional_object<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Fields) -> Result<T, Vec<FieldError>>,
    ) -> Option<T> {
        let value = self.take(name)?;
        self.object(name, value, read)
    }

    /// A list of so many objects, each read by `read` with its place from 0 on; of an error the
    /// field is told as `lines[0].sku`.
    pub fn required_list<T>(
        &mut self,
        name: &str,
        counts: &RangeInclusive<usize>,
        mut read: impl FnMut(usize, Fields) -> Result<T, Vec<FieldError>>,
    ) -> Option<Vec<T>> {
        let list = self.required(name, |value| values::list_of(value, counts))?;
        let count = list.len();
        let objects = list.into_iter().enumerate().filter_map(|(at, value)| {
            self.object(&format!("{name}[{at}]"), value, |fields| read(at, fields))
        });
        let objects: Vec<T> = objects.collect();
        (objects.len() == count).then_some(objects)
    }

    fn object<T>(
        &mut self,
        name: &str,
        value: Json,
        read: impl FnOnce(Fields) -> Result<T, Vec<FieldError>>,
    ) -> Option<T> {
        let fields = Fields::of(value);
        let is_object = fields.is_object;
        match read(fields) {
            Ok(object) => Some(object),
            Err(errors) => {
                for FieldError { field, message } in errors {
                    let field = if is_object { format!("{name}.{field}") } else { name.to_owned() };
                    note(&mut self.errors, field, message);
                }
                None
            }
        }
    }

    /// Whether a field is there that nobody has taken, whatever it is.
    pub fn has(&self, name: &str) -> bool {
        self.left.iter().any(|(given, _)| given == name)
    }

    /// Notes an error of a field that shows only beside others.
    pub fn note(&mut self, name: &str, message: &str) {
        if self.is_object {
            note(&mut self.errors, name, message);
        }
    }

    /// A field that is known but cannot be honoured: when present, the message is its error.
    pub fn refuse(&mut self, name: &str, message: &str) {
        if self.take(name).is_some() {
            note(&mut self.errors, name, message);
        }
    }

    /// Builds the request when nothing is wrong; a field nobody took is wrong too.
    ///
    /// `build` answers `None` only through the `?` of a required field, which it may use freely.
    ///
    /// # Errors
    /// All findings, the first 64 of them: repeats, then fields as they were taken, then unknowns.
    ///
    /// # Panics
    /// When `build` asks an optional field to be there.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Vec<FieldError>> {
        let Fields { left, mut errors, .. } = self;
        for (name, _) in left {
            note(&mut errors, name, "is not a field of this request");
        }
        if errors.is_empty() {
            Ok(build().expect("a required field is None only when there is an error"))
        } else {
            Err(errors)
        }
    }

    /// What `read` makes of a field that must be there; see [`values`] for readers.
    pub fn required<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Json) -> Result<T, String>,
    ) -> Option<T> {
        let Some(value) = self.take(name) else {
            if self.is_object {
                note(&mut self.errors, name, "is missing");
            }
            return None;
        };
        self.kept(name, read(value))
    }

    /// As `required`, but the field may be absent.
    pub fn optional<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Json) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(name)?;
        self.kept(name, read(value))
    }

    fn take(&mut self, name: &str) -> Option<Json> {
        let at = self.left.iter().position(|(given, _)| given == name)?;
        Some(self.left.remove(at).1)
    }

    fn kept<T>(&mut self, name: &str, read: Result<T, String>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(message) => {
                note(&mut self.errors, name, message);
                None
            }
        }
    }
}

/// Sorts the fields, keeps the first of each name, and notes once each name given again.
fn without_repeats(
    mut fields: Vec<(String, Json)>,
    errors: &mut Vec<FieldError>,
) -> Vec<(String, Json)> {
    // Stable, so the first stays first; without it a large body would cost its square.
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields.dedup_by(|(again, _), (name, _)| {
        let repeats = again == name;
        if repeats && errors.last().is_none_or(|last| last.field != *name) {
            note(errors, name.as_str(), "given more than once");
        }
        repeats
    });
    fields
}

fn note(errors: &mut Vec<FieldError>, field: impl Into<String>, message: impl Into<String>) {
    if errors.len() < ERRORS_MAX {
        errors.push(FieldError { field: field.into(), message: message.into() });
    }
}

impl Json {
    fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(true) => "true",
            Json::Bool(false) => "false",
            Json::Int(_) | Json::Float(_) => "a number",
            Json::Str(_) => "text",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

/// Builds the tree from what serde meets.
struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(i64::try_from(number).map_or(Json::Float(number as f64), Json::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Json::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Str(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Str(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = entries.next_entry()? {
            fields.push(field);
        }
        Ok(Json::Object(fields))
    }
}

#[cfg(test)]
mod tests;
