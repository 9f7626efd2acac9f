//! What a body may be, and what is told of one that is not.

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
    let expected = [" is not a field of this request", "Quantity is not a field of this request"];
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
