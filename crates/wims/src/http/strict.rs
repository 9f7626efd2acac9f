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

use std::fmt;
use std::ops::RangeInclusive;
use std::str::Utf8Error;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Long enough for any scheme of customer ids, short enough for a key of the table.
const CUSTOMER_ID_CHARS: RangeInclusive<usize> = 1..=128;
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
/// fields.refuse("lines", "is not supported yet; send `quantity`");
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

    fn required<T>(
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

    fn optional<T>(
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

fn text(value: Json) -> Result<String, String> {
    match value {
        Json::Str(text) => Ok(text),
        other @ (Json::Null
        | Json::Bool(_)
        | Json::Int(_)
        | Json::Float(_)
        | Json::List(_)
        | Json::Object(_)) => Err(format!("must be text, not {}", other.kind())),
    }
}

fn text_of(value: Json, chars: &RangeInclusive<usize>) -> Result<String, String> {
    let text = text(value)?;
    if chars.contains(&text.chars().count()) {
        Ok(text)
    } else {
        Err(format!("must have {} to {} characters", chars.start(), chars.end()))
    }
}

fn customer_id(value: Json) -> Result<String, String> {
    match value {
        Json::Int(number) => Ok(number.to_string()),
        Json::Float(number) => Err(format!("must be text or a whole number, not {number:?}")),
        Json::Str(_) => text_of(value, &CUSTOMER_ID_CHARS).and_then(printable),
        Json::Null | Json::Bool(_) | Json::List(_) | Json::Object(_) => {
            Err(format!("must be text or a whole number, not {}", value.kind()))
        }
    }
}

fn printable(text: String) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        Err("must not have control characters".to_owned())
    } else if text.trim().is_empty() {
        Err("must not be blank".to_owned())
    } else {
        Ok(text)
    }
}

fn whole_number(value: &Json, allowed: &RangeInclusive<i64>) -> Result<i64, String> {
    let (low, high) = (allowed.start(), allowed.end());
    match value {
        Json::Int(number) if allowed.contains(number) => Ok(*number),
        Json::Int(number) => {
            Err(format!("must be a whole number between {low} and {high}, not {number}"))
        }
        // Debug, since Display would write 1e300 with all its zeros.
        Json::Float(number) => {
            Err(format!("must be a whole number between {low} and {high}, not {number:?}"))
        }
        Json::Null | Json::Bool(_) | Json::Str(_) | Json::List(_) | Json::Object(_) => {
            Err(format!("must be a whole number, not {}", value.kind()))
        }
    }
}

fn currency(value: Json) -> Result<String, String> {
    let code = text(value)?;
    if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(code)
    } else {
        Err("must be a code of three capital letters, such as USD".to_owned())
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
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct NewOrder {
        customer_id: String,
        quantity: i64,
        priority: Option<i64>,
        reference: Option<String>,
        currency: Option<String>,
    }

    fn order(body: &str) -> Result<NewOrder, Vec<FieldError>> {
        let mut fields = Fields::of(parse(body.as_bytes()).unwrap());
        let customer_id = fields.customer_id("customerId");
        let quantity = fields.required_int("quantity", 1..=10_000);
        let priority = fields.optional_int("priority", 0..=9);
        let reference = fields.optional("reference", |value| text_of(value, &(1..=5)));
        let currency = fields.optional_currency("currency");
        fields.refuse("lines", "is not supported yet; send `quantity`");
        fields.finish(|| {
            Some(NewOrder {
                customer_id: customer_id?,
                quantity: quantity?,
                priority,
                reference,
                currency,
            })
        })
    }

    fn findings(body: &str) -> Vec<String> {
        let errors = order(body).unwrap_err();
        errors.iter().map(|error| format!("{} {}", error.field, error.message)).collect()
    }

    /// What is wrong with `quantity`, which alone is wrong.
    fn quantity_finding(quantity: &str) -> String {
        let findings = findings(&format!(r#"{{"customerId":"349","quantity":{quantity}}}"#));
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings[0].clone()
    }

    /// What is wrong with `customerId`, which alone is wrong.
    fn customer_finding(customer_id: &str) -> String {
        let findings = findings(&format!(r#"{{"customerId":{customer_id},"quantity":7}}"#));
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings[0].clone()
    }

    fn refusal(body: impl AsRef<[u8]>) -> String {
        parse(body.as_ref()).unwrap_err().message
    }

    #[test]
    fn the_order_of_the_article_is_read() {
        let read = order(r#"{"customerId":"349","quantity":7}"#).unwrap();
        let customer_id = "349".to_owned();
        let expected =
            NewOrder { customer_id, quantity: 7, priority: None, reference: None, currency: None };
        assert_eq!(read, expected);
    }

    #[test]
    fn optional_fields_are_read_when_they_are_there() {
        let body = r#"{"currency":"EUR","reference":"a\u00e9 ☃!","priority":9,
            "quantity":10000,"customerId":"é"}"#;
        let read = order(body).unwrap();
        assert_eq!((read.customer_id.as_str(), read.quantity), ("é", 10_000));
        assert_eq!(read.priority, Some(9));
        assert_eq!(read.reference.as_deref(), Some("aé ☃!"));
        assert_eq!(read.currency.as_deref(), Some("EUR"));
    }

    #[test]
    fn the_tree_keeps_order_repeats_and_the_kind_of_every_value() {
        let body = br#" {"b":[null,true,-2],"a":1,"a":{"x":"y"},"n":[1.0,1e2,-0]} "#;
        let field = |name: &str, value| (name.to_owned(), value);
        let expected = Json::Object(vec![
            field("b", Json::List(vec![Json::Null, Json::Bool(true), Json::Int(-2)])),
            field("a", Json::Int(1)),
            field("a", Json::Object(vec![field("x", Json::Str("y".to_owned()))])),
            field("n", Json::List(vec![Json::Float(1.0), Json::Float(100.0), Json::Float(-0.0)])),
        ]);
        assert_eq!(parse(body), Ok(expected));
    }

    #[test]
    fn integers_beyond_64_bits_are_floats_and_never_wrap() {
        assert_eq!(parse(b"9223372036854775807"), Ok(Json::Int(i64::MAX)));
        assert_eq!(parse(b"-9223372036854775808"), Ok(Json::Int(i64::MIN)));
        let beyond = ["9223372036854775808", "18446744073709551616", "-9223372036854775809"];
        for number in beyond {
            let read = parse(number.as_bytes());
            assert!(matches!(read, Ok(Json::Float(_))), "{number}: {read:?}");
        }
    }

    #[test]
    fn a_field_given_more_than_once_is_one_error_however_often() {
        let twice = r#"{"quantity":7,"customerId":"349","quantity":7}"#;
        assert_eq!(findings(twice), ["quantity given more than once"]);
        let often = r#"{"quantity":7,"quantity":8,"customerId":"349","quantity":9}"#;
        assert_eq!(findings(often), ["quantity given more than once"]);
        let escaped = r#"{"quantity":7,"customerId":"349","quantit\u0079":7}"#;
        assert_eq!(findings(escaped), ["quantity given more than once"]);
    }

    #[test]
    fn unknown_fields_are_named_each() {
        let body = r#"{"customerId":"349","quantity":7,"Quantity":7,"":null}"#;
        let expected =
            [" is not a field of this request", "Quantity is not a field of this request"];
        assert_eq!(findings(body), expected);
    }

    #[test]
    fn a_quantity_out_of_bounds_is_told_its_bounds_and_itself() {
        let bounds = "quantity must be a whole number between 1 and 10000, not";
        for quantity in ["0", "-1000", "10001", "0.5", "7.0"] {
            assert_eq!(quantity_finding(quantity), format!("{bounds} {quantity}"));
        }
        assert_eq!(quantity_finding("1e9"), format!("{bounds} 1000000000.0"));
        assert_eq!(quantity_finding("1e300"), format!("{bounds} 1e300"));
        assert_eq!(quantity_finding("-0"), format!("{bounds} -0.0"));
    }

    #[test]
    fn a_quantity_that_is_no_number_is_told_what_it_is() {
        let told = [
            (r#""7; drop""#, "text"),
            (r#""7""#, "text"),
            ("null", "null"),
            ("true", "true"),
            ("[7]", "a list"),
            ("{}", "an object"),
        ];
        for (quantity, kind) in told {
            let expected = format!("quantity must be a whole number, not {kind}");
            assert_eq!(quantity_finding(quantity), expected);
        }
    }

    #[test]
    fn missing_fields_are_named_each() {
        assert_eq!(findings("{}"), ["customerId is missing", "quantity is missing"]);
    }

    #[test]
    fn a_customer_id_has_1_to_128_characters_and_is_not_blank() {
        let bounds = "customerId must have 1 to 128 characters";
        assert_eq!(customer_finding(r#""""#), bounds);
        assert_eq!(customer_finding(&format!("\"{}\"", "é".repeat(129))), bounds);
        assert_eq!(customer_finding(r#"" \u00a0 ""#), "customerId must not be blank");
        let longest = "é".repeat(128);
        let body = format!(r#"{{"customerId":"{longest}","quantity":7}}"#);
        assert_eq!(order(&body).unwrap().customer_id, longest);
    }

    #[test]
    fn a_customer_id_has_no_control_characters() {
        for escape in [r"\n", r"\u0000", r"\u007f", r"\u0085"] {
            let finding = customer_finding(&format!("\"349{escape}\""));
            assert_eq!(finding, "customerId must not have control characters", "{escape}");
        }
    }

    #[test]
    fn an_integer_as_customer_id_is_its_decimal_text() {
        for number in ["349", "0", "-5", "9223372036854775807"] {
            let body = format!(r#"{{"customerId":{number},"quantity":7}}"#);
            assert_eq!(order(&body).unwrap().customer_id, number);
        }
    }

    #[test]
    fn a_customer_id_of_another_kind_is_told_what_it_is() {
        let told = [
            ("349.0", "349.0"),
            ("9223372036854775808", "9.223372036854776e18"),
            ("null", "null"),
            ("false", "false"),
            (r#"["349"]"#, "a list"),
        ];
        for (customer_id, kind) in told {
            let expected = format!("customerId must be text or a whole number, not {kind}");
            assert_eq!(customer_finding(customer_id), expected);
        }
    }

    #[test]
    fn optional_fields_are_as_strict_as_required_ones() {
        let body = r#"{"customerId":"349","quantity":7,
            "priority":10,"reference":5,"currency":"usd"}"#;
        let expected = [
            "priority must be a whole number between 0 and 9, not 10",
            "reference must be text, not a number",
            "currency must be a code of three capital letters, such as USD",
        ];
        assert_eq!(findings(body), expected);
        let nulls = r#"{"customerId":"349","quantity":7,
            "priority":null,"reference":"123456","currency":null}"#;
        let expected = [
            "priority must be a whole number, not null",
            "reference must have 1 to 5 characters",
            "currency must be text, not null",
        ];
        assert_eq!(findings(nulls), expected);
    }

    #[test]
    fn required_text_is_missed_and_measured() {
        let read = |body: &[u8]| {
            let mut fields = Fields::of(parse(body).unwrap());
            let sku = fields.required_text("sku", 1..=3);
            fields.finish(|| sku)
        };
        assert_eq!(read(br#"{"sku":"LX"}"#), Ok("LX".to_owned()));
        let message = |body: &[u8]| read(body).unwrap_err()[0].message.clone();
        assert_eq!(message(b"{}"), "is missing");
        assert_eq!(message(br#"{"sku":""}"#), "must have 1 to 3 characters");
        assert_eq!(message(br#"{"sku":false}"#), "must be text, not false");
    }

    #[test]
    fn a_refused_field_is_an_error_only_when_present() {
        let refused = ["lines is not supported yet; send `quantity`"];
        assert_eq!(findings(r#"{"customerId":"349","quantity":7,"lines":null}"#), refused);
        assert!(order(r#"{"customerId":"349","quantity":7}"#).is_ok());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let body = r#"{"sku":"LX","quantity":0.5,"lines":[],"customerId":"","quantity":7}"#;
        let expected = [
            "quantity given more than once",
            "customerId must have 1 to 128 characters",
            "quantity must be a whole number between 1 and 10000, not 0.5",
            "lines is not supported yet; send `quantity`",
            "sku is not a field of this request",
        ];
        assert_eq!(findings(body), expected);
    }

    #[test]
    fn a_body_of_unknown_fields_draws_a_bounded_reply() {
        let fields: Vec<String> = (0..20_000).map(|number| format!("\"f{number}\":0")).collect();
        let body = format!("{{{}}}", fields.join(","));
        assert_eq!(findings(&body).len(), ERRORS_MAX);
    }

    #[test]
    fn a_body_that_is_no_object_is_told_that_and_nothing_else() {
        let told = [("[]", "a list"), ("7", "a number"), ("null", "null"), (r#""{}""#, "text")];
        for (body, kind) in told {
            assert_eq!(findings(body), [format!(" must be a JSON object, not {kind}")]);
        }
    }

    #[test]
    fn five_thousand_levels_are_refused_and_do_not_overflow_the_stack() {
        let lists = "[".repeat(5_000) + &"]".repeat(5_000);
        let objects = r#"{"a":"#.repeat(5_000) + "1" + &"}".repeat(5_000);
        let unended = r#"[{"a":"#.repeat(2_500);
        for body in [lists, objects, unended] {
            assert_eq!(refusal(body), "the body is nested too deeply");
        }
    }

    #[test]
    fn the_last_level_read_is_the_127th() {
        let levels = |count| "[".repeat(count) + &"]".repeat(count);
        assert!(parse(levels(127).as_bytes()).is_ok());
        assert_eq!(refusal(levels(128)), "the body is nested too deeply");
    }

    #[test]
    fn broken_json_is_told_where_it_breaks() {
        let no_comma = r#"{"quantity":7 "customerId":"349"}"#;
        let expected = "the body is not JSON: expected `,` or `}` at line 1 column 15";
        assert_eq!(refusal(no_comma), expected);
        let bodies = ["{", r#"{"quantity":}"#, "{'quantity':7}", r#"{"quantity":7,}"#, "NaN", "07"];
        for body in bodies {
            let message = refusal(body);
            assert!(message.starts_with("the body is not JSON: "), "{body}: {message}");
            assert!(message.contains(" at line 1 column "), "{body}: {message}");
        }
    }

    #[test]
    fn nothing_may_follow_the_value() {
        let expected = "the body is not JSON: trailing characters at line 1 column 4";
        assert_eq!(refusal("{} {}"), expected);
        assert_eq!(refusal("{}\n;"), expected.replace("line 1 column 4", "line 2 column 1"));
    }

    #[test]
    fn broken_utf8_is_told_its_first_byte() {
        assert_eq!(refusal(b"{\"a\":\"\xff\"}"), "the body is not UTF-8 (byte 7)");
        assert_eq!(refusal(b"\xc3"), "the body is not UTF-8 (byte 1)");
    }

    #[test]
    fn an_empty_body_is_told_what_to_send() {
        for body in ["", " ", "\r\n\t"] {
            assert_eq!(refusal(body), "the body is empty; send a JSON object");
        }
    }
}
