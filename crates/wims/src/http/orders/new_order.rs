//! The body of `POST /orders`: read strictly into the arguments of `create-order`.
//!
//! Promise: what is asked for is a quantity of the article's item, or lines; what is personal is in
//! one part of its own. It deliberately looks up no item: whether there is one, and how many of it
//! an order may have, is the engine's word.

use std::ops::RangeInclusive;

use wims_stack::{Doc, Field};

use crate::domain::LINES_MAX;
use crate::http::strict::values::{country, email, printable_of, sku, street, token_of};
use crate::http::strict::{FieldError, Fields, Json};

/// More than any item allows; the item's own bound is checked by the engine.
const QUANTITY_MAX: i64 = 10_000;
/// Enough for anybody's own number of an order.
const REFERENCE_CHARS: RangeInclusive<usize> = 1..=128;
/// A line of a label.
const ADDRESS_CHARS: RangeInclusive<usize> = 1..=128;
/// The longest postal codes have 10 characters, blanks included.
const POSTAL_CODE_CHARS: RangeInclusive<usize> = 1..=16;
/// As long as the tokens of payments providers get.
const PAYMENT_METHOD_CHARS: RangeInclusive<usize> = 1..=255;

/// What is asked for.
enum Asked {
    /// So many of the article's item.
    Quantity(i64),
    /// A list of `{sku, quantity}`.
    Lines(Doc),
}

/// The arguments of `create-order`: `{customerId, quantity | lines, reference?, contact?}`.
///
/// # Errors
/// Everything that is wrong with the body.
pub fn arguments(mut fields: Fields) -> Result<Doc, Vec<FieldError>> {
    let customer_id = fields.customer_id("customerId");
    let asked = asked(&mut fields);
    let reference = fields.optional("reference", |value| printable_of(value, &REFERENCE_CHARS));
    let contact = contact(&mut fields);
    let (customer_id, asked) = fields.finish(|| Some((customer_id?, asked?)))?;
    let asked = match &asked {
        Asked::Quantity(quantity) => ("quantity", Field::Int(*quantity)),
        Asked::Lines(lines) => ("lines", Field::View(lines.view())),
    };
    let order = Doc::object(&[("customerId", Field::Str(&customer_id)), asked]);
    if reference.is_none() && contact.is_none() {
        return Ok(order);
    }
    let contact = contact.as_ref().map(|contact| Field::View(contact.view()));
    Ok(order.with(&[("contact", contact), ("reference", reference.as_deref().map(Field::Str))]))
}

fn asked(fields: &mut Fields) -> Option<Asked> {
    match (fields.has("quantity"), fields.has("lines")) {
        (true, false) => fields.required_int("quantity", 1..=QUANTITY_MAX).map(Asked::Quantity),
        (false, true) => lines(fields).map(Asked::Lines),
        (true, true) => {
            fields.note("quantity", "and `lines` exclude each other; send one of them");
            // What is wrong with them is told as well.
            fields.required_int("quantity", 1..=QUANTITY_MAX);
            lines(fields);
            None
        }
        (false, false) => {
            fields.note("quantity", "is missing, and so is `lines`; send one of them");
            None
        }
    }
}

fn lines(fields: &mut Fields) -> Option<Doc> {
    let mut seen: Vec<(usize, String)> = Vec::new();
    let lines = fields.required_list("lines", &(1..=LINES_MAX), |at, mut line| {
        let sku = line.required("sku", sku);
        let quantity = line.required_int("quantity", 1..=QUANTITY_MAX);
        if let Some(sku) = &sku {
            match seen.iter().find(|(_, other)| other == sku) {
                Some((first, _)) => line.note("sku", &format!("is that of lines[{first}] already")),
                None => seen.push((at, sku.clone())),
            }
        }
        line.finish(|| Some((sku?, quantity?)))
    })?;
    Some(Doc::build(|w| {
        w.list(|w| {
            for (sku, quantity) in &lines {
                w.object(&[("quantity", Field::Int(*quantity)), ("sku", Field::Str(sku))]);
            }
        });
    }))
}

/// What is personal of an order and not needed to keep the books.
fn contact(fields: &mut Fields) -> Option<Doc> {
    let email = fields.optional("email", email);
    let method = fields.optional("paymentMethod", payment_method);
    let ship_to = fields.optional_object("shipTo", ship_to);
    if email.is_none() && method.is_none() && ship_to.is_none() {
        return None;
    }
    Some(Doc::object(&[]).with(&[
        ("email", email.as_deref().map(Field::Str)),
        ("paymentMethod", method.as_deref().map(Field::Str)),
        ("shipTo", ship_to.as_ref().map(|ship_to| Field::View(ship_to.view()))),
    ]))
}

/// What a payments provider knows a customer's card or account by.
///
/// # Errors
/// When it is something else.
pub fn payment_method(value: Json) -> Result<String, String> {
    token_of(value, &PAYMENT_METHOD_CHARS)
}

fn ship_to(mut fields: Fields) -> Result<Doc, Vec<FieldError>> {
    let name = fields.required("name", |value| printable_of(value, &ADDRESS_CHARS));
    let street = fields.required("street", street);
    let postal_code =
        fields.required("postalCode", |value| printable_of(value, &POSTAL_CODE_CHARS));
    let city = fields.required("city", |value| printable_of(value, &ADDRESS_CHARS));
    let region = fields.optional("region", |value| printable_of(value, &ADDRESS_CHARS));
    let country = fields.required("country", country);
    let (name, street, postal_code, city, country) =
        fields.finish(|| Some((name?, street?, postal_code?, city?, country?)))?;
    let address = Doc::object(&[
        ("city", Field::Str(&city)),
        ("country", Field::Str(&country)),
        ("name", Field::Str(&name)),
        ("postalCode", Field::Str(&postal_code)),
        ("street", Field::Str(&street)),
    ]);
    Ok(match region {
        Some(region) => address.with(&[("region", Some(Field::Str(&region)))]),
        None => address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::strict::parse;

    fn read(body: &str) -> Result<Doc, Vec<FieldError>> {
        arguments(Fields::of(parse(body.as_bytes()).expect("JSON")))
    }

    fn findings(body: &str) -> Vec<String> {
        let errors = read(body).expect_err("a refusal");
        errors.iter().map(|error| format!("{} {}", error.field, error.message)).collect()
    }

    #[test]
    fn the_order_of_the_article_is_a_customer_and_a_quantity() {
        let expected =
            Doc::object(&[("customerId", Field::Str("349")), ("quantity", Field::Int(7))]);
        assert_eq!(read(r#"{"customerId":"349","quantity":7}"#), Ok(expected));
    }

    #[test]
    fn an_order_of_lines_keeps_what_is_personal_in_one_part() {
        let body = r#"{"customerId":349,"lines":[{"sku":"B/1","quantity":2},
            {"quantity":1,"sku":"A/1"}],"reference":"PO 4711","email":"ada@example.com",
            "paymentMethod":"tok_1","shipTo":{"name":"Ada","street":"Main St 1\nBack","city":"Ulm",
            "postalCode":"89073","country":"DE"}}"#;
        let expected = serde_json::json!({
            "customerId": "349", "reference": "PO 4711",
            "lines": [{"sku": "B/1", "quantity": 2}, {"sku": "A/1", "quantity": 1}],
            "contact": {"email": "ada@example.com", "paymentMethod": "tok_1", "shipTo": {
                "name": "Ada", "street": "Main St 1\nBack", "city": "Ulm", "postalCode": "89073",
                "country": "DE"}}
        });
        assert_eq!(read(body).ok(), wims_stack::json::to_doc(&expected).ok());
    }

    #[test]
    fn either_a_quantity_or_lines() {
        let neither = findings(r#"{"customerId":"349"}"#);
        assert_eq!(neither, ["quantity is missing, and so is `lines`; send one of them"]);
        let both =
            findings(r#"{"customerId":"349","quantity":0,"lines":[{"sku":"A/1","quantity":1}]}"#);
        let expected = [
            "quantity and `lines` exclude each other; send one of them",
            "quantity must be a whole number between 1 and 10000, not 0",
        ];
        assert_eq!(both, expected);
    }

    #[test]
    fn all_that_is_wrong_with_lines_is_told_by_its_place() {
        let body = r#"{"customerId":"349","lines":[{"sku":"A/1","quantity":1},7,
            {"sku":"a/1","quantity":0},{"sku":"A/1"},{"sku":"B/1","quantity":1,"colour":"red"}]}"#;
        let expected = [
            "lines[1] must be a JSON object, not a number",
            "lines[2].sku must be PRODUCT/MODEL, each 1 to 64 of A-Z, 0-9, dot, dash and underscore",
            "lines[2].quantity must be a whole number between 1 and 10000, not 0",
            "lines[3].quantity is missing",
            "lines[3].sku is that of lines[0] already",
            "lines[4].colour is not a field of this request",
        ];
        assert_eq!(findings(body), expected);
        let told = |lines: &str| findings(&format!(r#"{{"customerId":"349","lines":{lines}}}"#));
        assert_eq!(told("[]"), ["lines must have 1 to 32 entries, not 0"]);
        assert_eq!(told("{}"), ["lines must be a list, not an object"]);
        let line = |at: usize| format!(r#"{{"sku":"A/{at}","quantity":1}}"#);
        let many = |count| format!("[{}]", (0..count).map(line).collect::<Vec<_>>().join(","));
        assert_eq!(told(&many(33)), ["lines must have 1 to 32 entries, not 33"]);
        assert!(read(&format!(r#"{{"customerId":"349","lines":{}}}"#, many(32))).is_ok());
    }

    #[test]
    fn what_is_wrong_with_contact_data_is_told_without_repeating_it() {
        let body = r#"{"customerId":"349","quantity":1,"reference":"\u0007","email":"ada@home",
            "paymentMethod":"tok 1","shipTo":{"name":"","street":"Secret St 1\n\n","city":"Ulm",
            "country":"Germany","floor":"3"}}"#;
        let told = findings(body).join("\n");
        let fields = [
            "reference ",
            "email ",
            "paymentMethod ",
            "shipTo.name ",
            "shipTo.street ",
            "shipTo.postalCode is missing",
            "shipTo.country ",
            "shipTo.floor ",
        ];
        for field in fields {
            assert!(told.contains(field), "{field} in {told}");
        }
        assert_eq!(told.lines().count(), fields.len(), "{told}");
        for given in ["ada@home", "tok 1", "Secret", "Ulm", "Germany"] {
            assert!(!told.contains(given), "{given} in {told}");
        }
        let no_object = r#"{"customerId":"349","quantity":1,"shipTo":"Ulm"}"#;
        assert_eq!(findings(no_object), ["shipTo must be a JSON object, not text"]);
    }
}
