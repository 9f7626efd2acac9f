//! What one value of a request may be: readers for [`Fields`](super::Fields).
//!
//! Promise: each reader takes exactly what its contract says, and a refusal continues the sentence
//! that the field's name begins. Of what may be personal it deliberately repeats nothing: a message
//! says what would be right.

use std::ops::RangeInclusive;

use super::Json;
use crate::domain::Sku;

/// Long enough for any scheme of customer ids, short enough for a key of the table.
const CUSTOMER_ID_CHARS: RangeInclusive<usize> = 1..=128;
/// The longest address that can be mailed. Source: RFC 5321, section 4.5.3.1.3.
const EMAIL_BYTES_MAX: usize = 254;
/// The longest part before the at sign. Source: RFC 5321, section 4.5.3.1.1.
const EMAIL_LOCAL_BYTES_MAX: usize = 64;
/// The longest name between two dots. Source: RFC 1035, section 2.3.4.
const DOMAIN_LABEL_BYTES_MAX: usize = 63;
/// What stands in an unquoted part before the at sign, beside letters, digits and dots. Source:
/// RFC 5322, section 3.2.3.
const EMAIL_LOCAL_MARKS: &str = "!#$%&'*+-/=?^_`{|}~";
/// A label has room for as many.
const STREET_LINES: RangeInclusive<usize> = 1..=3;
const STREET_CHARS: RangeInclusive<usize> = 1..=256;

/// Text.
///
/// # Errors
/// When it is something else.
pub fn text(value: Json) -> Result<String, String> {
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

/// Text of so many characters, control characters and blanks included.
///
/// # Errors
/// When it is something else.
pub fn text_of(value: Json, chars: &RangeInclusive<usize>) -> Result<String, String> {
    let text = text(value)?;
    if chars.contains(&text.chars().count()) {
        Ok(text)
    } else {
        Err(format!("must have {} to {} characters", chars.start(), chars.end()))
    }
}

/// A customer's id: 1 to 128 printable characters, not all blank, or an integer as its text.
///
/// # Errors
/// When it is something else.
pub fn customer_id(value: Json) -> Result<String, String> {
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

/// An integer within bounds.
///
/// # Errors
/// When it is something else.
pub fn whole_number(value: &Json, allowed: &RangeInclusive<i64>) -> Result<i64, String> {
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

/// A list of so many values.
///
/// # Errors
/// When it is something else.
pub fn list_of(value: Json, counts: &RangeInclusive<usize>) -> Result<Vec<Json>, String> {
    match value {
        Json::List(list) if counts.contains(&list.len()) => Ok(list),
        Json::List(list) => {
            let (low, high) = (counts.start(), counts.end());
            Err(format!("must have {low} to {high} entries, not {}", list.len()))
        }
        Json::Null
        | Json::Bool(_)
        | Json::Int(_)
        | Json::Float(_)
        | Json::Str(_)
        | Json::Object(_) => Err(format!("must be a list, not {}", value.kind())),
    }
}

/// A currency's code by its form (ISO 4217); whether there is such a currency is not asked.
///
/// # Errors
/// When it is something else.
pub fn currency(value: Json) -> Result<String, String> {
    let code = text(value)?;
    if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(code)
    } else {
        Err("must be a code of three capital letters, such as USD".to_owned())
    }
}

/// Text of so many printable characters, not all blank.
///
/// # Errors
/// When it is something else.
pub fn printable_of(value: Json, chars: &RangeInclusive<usize>) -> Result<String, String> {
    text_of(value, chars).and_then(printable)
}

/// Text of so many visible ASCII characters: an opaque token.
///
/// # Errors
/// When it is something else.
pub fn token_of(value: Json, chars: &RangeInclusive<usize>) -> Result<String, String> {
    let token = text_of(value, chars)?;
    if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(token)
    } else {
        Err("must have visible ASCII characters only".to_owned())
    }
}

/// One mail address as everybody can mail it: `local@domain` in ASCII, the local part unquoted, the
/// domain a name of at least two labels. No name beside it, no comment, no list.
///
/// # Errors
/// When it is something else.
pub fn email(value: Json) -> Result<String, String> {
    let address = text(value)?;
    let is_address = address.len() <= EMAIL_BYTES_MAX
        && address
            .split_once('@')
            .is_some_and(|(local, domain)| is_local(local) && is_host(domain));
    if is_address {
        Ok(address)
    } else {
        Err(format!(
            "must be one mail address such as ada@example.com, of at most {EMAIL_BYTES_MAX} \
             characters"
        ))
    }
}

fn is_local(local: &str) -> bool {
    let is_atom = |atom: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || EMAIL_LOCAL_MARKS.contains(c);
        !atom.is_empty() && atom.chars().all(allowed)
    };
    local.len() <= EMAIL_LOCAL_BYTES_MAX && local.split('.').all(is_atom)
}

fn is_host(domain: &str) -> bool {
    let is_label = |label: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=DOMAIN_LABEL_BYTES_MAX).contains(&label.len())
            && label.chars().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    domain.contains('.') && domain.split('.').all(is_label)
}

/// A country's code by its form (ISO 3166-1 alpha-2); whether there is such a country is not
/// asked.
///
/// # Errors
/// When it is something else.
pub fn country(value: Json) -> Result<String, String> {
    let code = text(value)?;
    if code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(code)
    } else {
        Err("must be a code of two capital letters, such as DE".to_owned())
    }
}

/// Street and number and what goes with them: one to three lines, none blank.
///
/// # Errors
/// When it is something else.
pub fn street(value: Json) -> Result<String, String> {
    let street = text_of(value, &STREET_CHARS)?;
    let is_line = |line: &str| !line.trim().is_empty() && !line.chars().any(char::is_control);
    if STREET_LINES.contains(&street.split('\n').count()) && street.split('\n').all(is_line) {
        Ok(street)
    } else {
        let (low, high) = (STREET_LINES.start(), STREET_LINES.end());
        Err(format!("must have {low} to {high} lines, none blank, without control characters"))
    }
}

/// A sku by its form; whether there is such an item is not asked.
///
/// # Errors
/// When it is something else.
pub fn sku(value: Json) -> Result<String, String> {
    let sku = text(value)?;
    if Sku::parse(&sku).is_some() {
        Ok(sku)
    } else {
        let parts = "each 1 to 64 of A-Z, 0-9, dot, dash and underscore";
        Err(format!("must be PRODUCT/MODEL, {parts}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<T>(read: impl Fn(Json) -> Result<T, String>, text: &str) -> bool {
        read(Json::Str(text.to_owned())).is_ok()
    }

    #[test]
    fn a_mail_address_is_one_that_everybody_can_mail() {
        let longest = format!("{}@{}.example", "a".repeat(64), "b.".repeat(89) + "bb");
        assert!(longest.len() <= EMAIL_BYTES_MAX);
        for right in ["ada@example.com", "a.b+c@x-y.example", "o'hara@sub.example.org", &longest] {
            assert!(of(email, right), "{right}");
        }
        let too_long = format!("{}@{}example", "a".repeat(64), "b.".repeat(100));
        let long_local = format!("{}@example.com", "a".repeat(65));
        let long_label = format!("a@{}.com", "b".repeat(64));
        let wrong = [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@localhost",
            "ada@@example.com",
            "ada@example.com,bob@example.com",
            "ada@example.com bob@example.com",
            "Ada <ada@example.com>",
            "ada @example.com",
            "ada@example.com\r\nBcc: all@example.com",
            "ada@example.com\n",
            "\tada@example.com",
            "ada\0@example.com",
            ".ada@example.com",
            "ada.@example.com",
            "a..b@example.com",
            "ada@.example.com",
            "ada@example.com.",
            "ada@exa_mple.com",
            "ada@-example.com",
            "ada@example-.com",
            "ada@[127.0.0.1]",
            "\"a b\"@example.com",
            "ad\u{e9}@example.com",
            "ada@ex\u{e4}mple.com",
            &too_long,
            &long_local,
            &long_label,
        ];
        for wrong in wrong {
            let told = email(Json::Str(wrong.to_owned())).expect_err(wrong);
            let expected =
                "must be one mail address such as ada@example.com, of at most 254 characters";
            assert_eq!(told, expected, "{wrong:?}");
        }
        assert_eq!(email(Json::List(Vec::new())), Err("must be text, not a list".to_owned()));
    }

    #[test]
    fn a_street_has_one_to_three_lines() {
        for right in ["Main St 1", "Main St 1\nBack house", "1\n2\n3"] {
            assert!(of(street, right), "{right:?}");
        }
        let too_long = "x".repeat(257);
        for wrong in ["", " ", "1\n2\n3\n4", "1\n\n3", "1\n", "1\r\n2", "a\tb", &too_long] {
            assert!(!of(street, wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_country_a_sku_and_a_token_are_read_by_their_forms() {
        assert!(of(country, "DE"));
        for wrong in ["", "de", "DEU", "D1", "\u{c4}"] {
            assert!(!of(country, wrong), "{wrong}");
        }
        assert!(of(sku, "MACGUFFIN/LX"));
        for wrong in ["", "MACGUFFIN", "macguffin/lx", "A/B/C", "A/ B"] {
            assert!(!of(sku, wrong), "{wrong}");
        }
        let token = |value| token_of(value, &(1..=5));
        assert!(of(token, "tok_1"));
        for wrong in ["", "tok_12", "a b", "a\n", "\u{e9}"] {
            assert!(!of(token, wrong), "{wrong:?}");
        }
        let printable = |value| printable_of(value, &(1..=5));
        assert!(of(printable, "a \u{e9}"));
        for wrong in ["", "  ", "a\u{7}", "abcdef"] {
            assert!(!of(printable, wrong), "{wrong:?}");
        }
    }
}
