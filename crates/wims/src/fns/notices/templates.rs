//! Templates of the mails to customers: built in, or a team's own.
//!
//! Promise: each was written for orders of every kind before the first mail, so an unknown name, a
//! wrong word or a variable there is not stops the start, all of them told at once. What comes from
//! outside is one line of text: it starts no header and no paragraph, and as HTML it is escaped.
//! They deliberately read no clock and nothing but the letter.

use std::borrow::Cow;

use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;
use wims_runtime::functions::{MailText, Reads};
use wims_stack::Doc;

use super::Cause;
use crate::domain::{PaymentStatus, lines};

/// How the first line of a text begins; a mail's subject is in no file of its own.
const SUBJECT: &str = "Subject: ";
/// The shop's name where nobody says it.
pub const SHOP: &str = "our shop";

/// Currencies whose smallest unit is not a hundredth, and how many decimals they have (ISO 4217).
const DECIMALS: [(u32, &[&str]); 3] = [
    (
        0,
        &[
            "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI",
            "VND", "VUV", "XAF", "XOF", "XPF",
        ],
    ),
    (3, &["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"]),
    (4, &["CLF", "UYW"]),
];

/// What a template can say.
#[derive(Clone, Debug, Serialize)]
pub struct Letter {
    /// The order's id.
    order_id: String,
    /// What the customer calls it.
    reference: Option<String>,
    /// Whom it is sent to.
    name: Option<String>,
    /// What is ordered.
    lines: Vec<LetterLine>,
    /// What it costs.
    total: String,
    /// Why it came to this.
    reason: Option<String>,
    /// Whether the money went back.
    refunded: bool,
    /// Who writes.
    shop: String,
}

/// A line of an order.
#[derive(Clone, Debug, Serialize)]
struct LetterLine {
    sku: String,
    /// The item's name, or its sku when it has none.
    product: String,
    quantity: i64,
}

impl Letter {
    /// What there is to say of an order as an event shows it.
    pub fn of(reads: Reads<'_>, order: &Doc, contact: &Doc, shop: &str) -> Letter {
        let said = |name: &str| order.str(name).map(one_line);
        let ship_to = contact.part("shipTo");
        let name = ship_to.as_ref().and_then(|ship_to| ship_to.str("name")).map(one_line);
        let lines = lines(order).into_iter().map(|line| {
            let item = reads.get(&line.sku.pk(), &line.sku.sk());
            let sku = line.sku.to_string();
            let product = item.and_then(|item| item.str("productName")).filter(|n| !n.is_empty());
            LetterLine {
                product: product.map_or_else(|| sku.clone(), one_line),
                sku,
                quantity: line.quantity,
            }
        });
        let refunded = order.str("paymentStatus") == Some(PaymentStatus::Refunded.as_str());
        let currency = order.str("currency").unwrap_or("");
        Letter {
            order_id: said("orderId").unwrap_or_default(),
            reference: said("reference"),
            name,
            lines: lines.collect(),
            total: money(order.int("amount").unwrap_or(0), currency),
            // Of an order that is canceled, why; what the payments API once said is not.
            reason: said("cancelReason").or_else(|| said("reason")),
            refunded,
            shop: one_line(shop),
        }
    }

    /// Letters in which everything is there, and nothing that may be missing.
    fn samples(shop: &str) -> [Letter; 2] {
        let line = LetterLine { sku: "A/1".into(), product: "Nut".into(), quantity: 2 };
        let bare = Letter {
            order_id: "018bcfe5-6800-7000-8000-000000000001".into(),
            reference: None,
            name: None,
            lines: vec![line.clone()],
            total: "25.00 USD".into(),
            reason: None,
            refunded: false,
            shop: one_line(shop),
        };
        let full = Letter {
            reference: Some("PO 4711".into()),
            name: Some("Ada".into()),
            lines: vec![line.clone(), line],
            reason: Some("insufficient funds".into()),
            refunded: true,
            ..bare.clone()
        };
        [bare, full]
    }
}

/// Text of others, without the characters that end a line or cannot be seen.
fn one_line(text: &str) -> String {
    let is_break = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let words: Vec<&str> = text.split(is_break).map(str::trim).filter(|w| !w.is_empty()).collect();
    words.join(" ")
}

/// Minor units as people write them, the currency behind.
fn money(amount: i64, currency: &str) -> String {
    let known = DECIMALS.iter().find(|(_, currencies)| currencies.contains(&currency));
    let decimals = known.map_or(2, |(decimals, _)| *decimals);
    let unit = 10_u64.pow(decimals);
    let (sign, amount) = (if amount < 0 { "-" } else { "" }, amount.unsigned_abs());
    let (whole, rest) = (amount / unit, amount % unit);
    match decimals {
        0 => format!("{sign}{whole} {currency}"),
        _ => format!("{sign}{whole}.{rest:0width$} {currency}", width = decimals as usize),
    }
}

/// Templates that cannot be used, with all reasons.
#[derive(Debug, thiserror::Error)]
#[error("read the mail templates: {}", .0.join("; "))]
pub struct TemplatesError(pub Vec<String>);

/// A template of a team's own.
pub struct TemplateFile {
    /// Of the file, e.g. `shipped.txt`.
    pub name: String,
    /// What is in it, or why it could not be read.
    pub source: Result<String, String>,
}

/// The templates of one cause.
struct Pair {
    cause: Cause,
    text: Cow<'static, str>,
    html: Cow<'static, str>,
}

/// The templates of all mails to customers; see the module.
pub struct Templates {
    shop: String,
    pairs: Vec<Pair>,
    environment: Environment<'static>,
}

impl Templates {
    /// Those built in.
    pub fn built_in(shop: &str) -> Templates {
        let pairs = Cause::ALL.into_iter().map(|cause| {
            let (text, html) = built_in(cause);
            Pair { cause, text: text.into(), html: html.into() }
        });
        Templates { shop: shop.to_owned(), pairs: pairs.collect(), environment: environment() }
    }

    /// Those built in, with files in place of some or all of them.
    ///
    /// # Errors
    /// A file of another name, or one that could not be read, or cannot be written a mail with.
    pub fn with(files: Vec<TemplateFile>, shop: &str) -> Result<Templates, TemplatesError> {
        let mut templates = Templates::built_in(shop);
        let mut errors = templates.replace(files);
        errors.extend(templates.flaws());
        if errors.is_empty() { Ok(templates) } else { Err(TemplatesError(errors)) }
    }

    /// The shop's name.
    pub fn shop(&self) -> &str {
        &self.shop
    }

    /// Takes files; those that cannot be taken are told.
    fn replace(&mut self, files: Vec<TemplateFile>) -> Vec<String> {
        let mut errors = Vec::new();
        for TemplateFile { name, source } in files {
            let Some(template) = self.template(&name) else {
                let names = Cause::ALL.map(|cause| cause.as_str()).join(", ");
                errors.push(format!("{name} is no mail; there are {names}, each .txt and .html"));
                continue;
            };
            match source {
                Ok(source) => *template = source.into(),
                Err(error) => errors.push(format!("{name}: {error}")),
            }
        }
        errors.sort();
        errors
    }

    fn template(&mut self, name: &str) -> Option<&mut Cow<'static, str>> {
        let (stem, kind) = name.rsplit_once('.')?;
        let pair = self.pairs.iter_mut().find(|pair| pair.cause.as_str() == stem)?;
        match kind {
            "txt" => Some(&mut pair.text),
            "html" => Some(&mut pair.html),
            _ => None,
        }
    }

    /// Why a mail could not be written, of some kind of order.
    fn flaws(&self) -> Vec<String> {
        let mut flaws = Vec::new();
        for pair in &self.pairs {
            for letter in Letter::samples(&self.shop) {
                if let Err(flaw) = self.try_write(pair, &letter)
                    && !flaws.contains(&flaw)
                {
                    flaws.push(flaw);
                }
            }
        }
        flaws
    }

    /// Writes a mail.
    ///
    /// # Panics
    /// When a template fails on this order that did not on the samples; then the event is a dead
    /// letter.
    pub fn write(&self, cause: Cause, letter: &Letter) -> MailText {
        let pair = self.pairs.iter().find(|pair| pair.cause == cause);
        let pair = pair.expect("each cause has its templates");
        self.try_write(pair, letter).expect("templates are tried before the first mail")
    }

    fn try_write(&self, pair: &Pair, letter: &Letter) -> Result<MailText, String> {
        let (text_name, html_name) =
            (format!("{}.txt", pair.cause.as_str()), format!("{}.html", pair.cause.as_str()));
        let render = |name: &str, source: &str| {
            let rendered = self.environment.render_named_str(name, source, letter);
            rendered.map_err(|error| format!("{name}: {error}"))
        };
        let first = pair.text.lines().next().unwrap_or("");
        let Some(subject) = first.strip_prefix(SUBJECT) else {
            return Err(format!("{text_name}: its first line must begin with '{SUBJECT}'"));
        };
        let subject = one_line(&render(&text_name, subject)?);
        if subject.is_empty() {
            return Err(format!("{text_name}: its subject is empty"));
        }
        // Without the first line's words, so that errors still have their lines.
        let text = render(&text_name, &pair.text[first.len()..])?;
        let html = render(&html_name, &pair.html)?;
        let text = text.trim_start_matches(['\r', '\n']).to_owned();
        Ok(MailText { subject, text, html: Some(html) })
    }
}

/// What is not known is an error, not an empty place; HTML is escaped, text is not.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_auto_escape_callback(|name| {
        if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None }
    });
    // What ends every mail; a team's own templates may include it as well.
    let ends = [
        ("order.txt", include_str!("../mails/order.txt")),
        ("order.html", include_str!("../mails/order.html")),
    ];
    for (name, source) in ends {
        environment.add_template(name, source).expect("a built-in template is sound");
    }
    environment
}

macro_rules! built_in {
    ($name:literal) => {
        (
            include_str!(concat!("../mails/", $name, ".txt")),
            include_str!(concat!("../mails/", $name, ".html")),
        )
    };
}

fn built_in(cause: Cause) -> (&'static str, &'static str) {
    match cause {
        Cause::Backordered => built_in!("backordered"),
        Cause::BackInStock => built_in!("back-in-stock"),
        Cause::PaymentDeclined => built_in!("payment-declined"),
        Cause::Canceled => built_in!("canceled"),
        Cause::Shipped => built_in!("shipped"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_the_decimals_of_its_currency() {
        let written = [(2_500, "USD"), (5, "EUR"), (2_500, "JPY"), (2_500, "KWD"), (-150, "USD")]
            .map(|(amount, currency)| money(amount, currency));
        assert_eq!(written, ["25.00 USD", "0.05 EUR", "2500 JPY", "2.500 KWD", "-1.50 USD"]);
        assert_eq!(money(i64::MIN, "USD"), "-92233720368547758.08 USD");
    }

    #[test]
    fn text_of_others_is_one_line() {
        assert_eq!(one_line("Ada\r\nBcc: eve@example.com"), "Ada Bcc: eve@example.com");
        assert_eq!(one_line("\tAda\u{2028}Lovelace\0"), "Ada Lovelace");
    }

    #[test]
    fn the_built_in_templates_have_no_flaw() {
        assert_eq!(Templates::built_in(SHOP).flaws(), Vec::<String>::new());
    }
}
