//! Tests of notices: what is said, to whom, and that it is said once.

use std::path::{Path, PathBuf};

use wims_runtime::functions::{MailText, Reads};
use wims_runtime::items::Items;
use wims_stack::Field;

use super::templates::{TemplateFile, TemplatesError};
use super::*;
use crate::domain::Sku;
use crate::fns::sample;

const ORDER_ID: &str = "00000000-0000-0000-0000-000000000001";
const EMAIL: &str = "ada@example.com";
const SHOP: &str = "Ada's shop";
/// The events of all causes.
const EVENTS: [(&str, Cause); 5] = [
    ("order.backordered", Cause::Backordered),
    ("stock.reserved", Cause::BackInStock),
    ("payment.declined", Cause::PaymentDeclined),
    ("order.canceled", Cause::Canceled),
    ("order.shipped", Cause::Shipped),
];

/// The table with two items, one of them without a name, and contact data of the order.
fn items(contact: &Doc) -> Items {
    let mut items = sample::table();
    for (text, name) in [("A/1", "Nut & Bolt"), ("B/1", "")] {
        let sku = Sku::parse(text).expect("a sku");
        let (pk, sk) = (sku.pk(), sku.sk());
        set(
            &mut items,
            Doc::object(&[
                ("pk", Field::Str(&pk)),
                ("productName", Field::Str(name)),
                ("sk", Field::Str(&sk)),
            ]),
        );
    }
    let Action::Put(item) = contacts::put(ORDER_ID, "349", contact).action else {
        panic!("contact data is put");
    };
    set(&mut items, item);
    items
}

fn set(items: &mut Items, item: Doc) {
    let seq = 1 + items.len() as u64;
    items.set(&item.clone(), Some(item), seq, seq);
}

/// Contact data with an address and whom to ship to.
fn contact(name: &str) -> Doc {
    let ship_to = Doc::object(&[("name", Field::Str(name))]);
    Doc::object(&[("email", Field::Str(EMAIL)), ("shipTo", Field::View(ship_to.view()))])
}

fn ada() -> Doc {
    contact(r#"Ada <b>"Lace"</b> & Sons"#)
}

/// An event about the order, of which these attributes are others.
fn event(detail_type: &str, more: &[(&str, Option<Field<'_>>)]) -> Doc {
    let lines = Doc::build(|w| {
        w.list(|w| {
            for (sku, quantity) in [("A/1", 2), ("B/1", 1)] {
                w.object(&[("quantity", Field::Int(quantity)), ("sku", Field::Str(sku))]);
            }
        });
    });
    let order = Doc::object(&[
        ("amount", Field::Int(599)),
        ("currency", Field::Str("USD")),
        ("lines", Field::View(lines.view())),
        ("orderId", Field::Str(ORDER_ID)),
        ("paymentStatus", Field::Str("REFUNDED")),
        ("reason", Field::Str("insufficient funds")),
        ("reference", Field::Str("PO 4711")),
    ]);
    let order = order.with(more);
    Doc::object(&[
        ("detail", Field::View(order.view())),
        ("detail-type", Field::Str(detail_type)),
        ("source", Field::Str("wims")),
    ])
}

fn input<'a>(items: &'a Items, event: &'a Doc) -> DeliveryInput<'a> {
    DeliveryInput { message: event, reads: Reads::of(items), now_ms: 7, clock_ms: 7 }
}

fn told(items: &Items, event: &Doc) -> Notice {
    notify_customer(Arc::new(Templates::built_in(SHOP)))(&input(items, event))
}

/// The key and the text of a mail that must be one, to Ada.
fn mail(notice: Notice) -> (String, MailText) {
    let Notice::Mail { to, key, text } = notice else { panic!("nobody is mailed: {notice:?}") };
    assert_eq!(to, EMAIL);
    (key, text)
}

fn nobody() -> Notice {
    Notice::Nobody { writes: Vec::new() }
}

/// Carries out the writes of a notice that ended, as the engine does.
fn carry_out(items: &mut Items, writes: Vec<Write>) {
    for Write { pk, sk, action, .. } in writes {
        let item = items.get(&pk, &sk).expect("it is there");
        let (old, created) = (item.doc.clone(), item.created);
        let new = match action {
            Action::Update(updates) => Some(Update::apply_all(&updates, &old).expect("it applies")),
            Action::Delete => None,
            Action::Put(_) | Action::Check => panic!("notices note and forget"),
        };
        items.set(&old, new, created, created + 100);
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fns/mails/golden").join(name)
}

fn assert_golden(name: &str, written: &str) {
    let path = golden(name);
    if std::env::var_os("WIMS_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(&path, written).expect("the file is written");
    }
    let expected = std::fs::read_to_string(&path).expect("a golden mail; WIMS_BLESS=1 writes it");
    assert_eq!(written, expected, "{name}");
}

#[test]
fn every_mail_reads_as_its_golden_files() {
    let items = items(&ada());
    for (detail_type, cause) in EVENTS {
        let (key, text) = mail(told(&items, &event(detail_type, &[])));
        assert_eq!(key, format!("{ORDER_ID}.{}", cause.as_str()));
        let MailText { subject, text, html } = text;
        assert_golden(&format!("{}.txt", cause.as_str()), &format!("Subject: {subject}\n\n{text}"));
        assert_golden(&format!("{}.html", cause.as_str()), &html.expect("it has HTML"));
    }
    let files = std::fs::read_dir(golden("")).expect("a folder");
    assert_eq!(files.count(), 2 * EVENTS.len(), "each golden file is of a mail");
}

#[test]
fn what_may_be_missing_leaves_no_gap_in_a_mail() {
    let none = ["reason", "reference"].map(|name| (name, None));
    let items = items(&Doc::object(&[("email", Field::Str(EMAIL))]));
    for (detail_type, _) in EVENTS {
        let (_, MailText { text, html, .. }) = mail(told(&items, &event(detail_type, &none)));
        assert!(text.starts_with("Hello,\n\n"), "{text}");
        for text in [text, html.expect("it has HTML")] {
            for gap in ["none", "()", "( )", "\n\n\n", "Your reference"] {
                assert!(!text.contains(gap), "{gap:?} in {text}");
            }
        }
    }
    let voided = [("paymentStatus", Some(Field::Str("VOIDED")))];
    let (_, MailText { text, .. }) = mail(told(&items, &event("order.canceled", &voided)));
    assert!(text.contains("You were not charged") && !text.contains("refunded"), "{text}");
}

#[test]
fn what_customers_write_is_neither_html_nor_a_header_nor_a_paragraph() {
    let name = "Eve\r\nBcc: all@example.com\r\n\r\n<script>alert(1)</script>{{ shop }}";
    let items = items(&contact(name));
    for (detail_type, _) in EVENTS {
        let hostile = [
            ("reference", Some(Field::Str("1\nSubject: free"))),
            ("reason", Some(Field::Str("no\u{2028}<img src=x>"))),
        ];
        let (key, text) = mail(told(&items, &event(detail_type, &hostile)));
        assert!(!key.contains("Eve"));
        let MailText { subject, text, html } = text;
        assert!(!subject.contains(['\r', '\n']) && !subject.contains("Eve"), "{subject}");
        assert!(text.contains("Hello Eve Bcc: all@example.com <script>"), "{text}");
        assert!(text.contains("</script>{{ shop }},\n"), "no template of theirs: {text}");
        assert!(!text.contains("\nBcc") && !text.contains("\nSubject"), "{text}");
        let html = html.expect("it has HTML");
        assert!(html.contains("&lt;script&gt;"), "{html}");
        assert!(!html.contains("<script") && !html.contains("<img"), "{html}");
    }
}

#[test]
fn a_customer_is_told_once_of_a_cause_and_of_each_declined_charge() {
    let mut items = items(&ada());
    let backordered = event("order.backordered", &[]);
    for (detail_type, charge) in
        [("order.backordered", None), ("payment.declined", Some(1)), ("payment.declined", Some(2))]
    {
        let event = event(detail_type, &[("charge", charge.map(Field::Int))]);
        mail(told(&items, &event));
        let given_up = customer_notified(&input(&items, &event), NoticeEnd::GivenUp);
        assert!(given_up.is_empty(), "a dead letter can be sent back");
        let sent = customer_notified(&input(&items, &event), NoticeEnd::Sent);
        assert_eq!(sent.len(), 1);
        carry_out(&mut items, sent);
        assert_eq!(told(&items, &event), nobody(), "{detail_type} {charge:?}");
    }
    assert_eq!(told(&items, &backordered), nobody(), "what came first is not forgotten");
}

#[test]
fn the_last_notice_takes_contact_data_along_however_it_ends() {
    for detail_type in ["order.shipped", "order.canceled"] {
        let event = event(detail_type, &[]);
        for end in [NoticeEnd::Sent, NoticeEnd::GivenUp] {
            let mut items = items(&ada());
            mail(told(&items, &event));
            let writes = customer_notified(&input(&items, &event), end);
            carry_out(&mut items, writes);
            assert!(items.get(&contact_pk(ORDER_ID), CONTACT_SK).is_none(), "{end:?}");
            assert_eq!(told(&items, &event), nobody());
            assert!(customer_notified(&input(&items, &event), end).is_empty());
        }
        // Nobody to mail, or nobody is to be mailed.
        let without = items(&Doc::object(&[("paymentMethod", Field::Str("tok_1"))]));
        let delete = vec![contacts::delete(ORDER_ID)];
        assert_eq!(told(&without, &event), Notice::Nobody { writes: delete.clone() });
        let items = items(&ada());
        let forgotten = forget_customer(&input(&items, &event));
        assert_eq!(forgotten, Notice::Nobody { writes: delete });
        let backordered = self::event("order.backordered", &[]);
        assert_eq!(forget_customer(&input(&items, &backordered)), nobody());
    }
}

#[test]
fn a_cancellation_tells_its_refund_and_its_own_reason() {
    let items = items(&ada());
    let canceled = [
        ("cancelReason", Some(Field::Str("ordered twice"))),
        ("paymentStatus", Some(Field::Str("REFUNDED"))),
        ("reason", Some(Field::Str("the API answered 500"))),
    ];
    let (_, MailText { text, .. }) = mail(told(&items, &event("order.canceled", &canceled)));
    assert!(text.contains("is canceled (ordered twice). We have refunded 5.99 USD"), "{text}");
    assert_eq!(told(&items, &event("payment.refunded", &canceled)), nobody());
}

fn files(files: &[(&str, &str)]) -> Vec<TemplateFile> {
    let file = |(name, source): &(&str, &str)| TemplateFile {
        name: (*name).into(),
        source: Ok((*source).into()),
    };
    files.iter().map(file).collect()
}

#[test]
fn files_take_the_place_of_the_templates_they_are_named_after() {
    let files = files(&[("shipped.txt", "Subject: {{ name }}\n\nBye, {{ shop }}\n")]);
    let templates = Templates::with(files, SHOP).expect("they are sound");
    let items = items(&contact("Eve\nBcc: all@example.com"));
    let notify = notify_customer(Arc::new(templates));
    let of = |event: &Doc| mail(notify(&input(&items, event))).1;
    let shipped = of(&event("order.shipped", &[]));
    assert_eq!(shipped.subject, "Eve Bcc: all@example.com");
    assert_eq!(shipped.text, "Bye, Ada's shop\n");
    assert!(shipped.html.expect("it has HTML").contains("has left our warehouse"));
    let backordered = of(&event("order.backordered", &[]));
    assert!(backordered.text.contains("in stock right now"), "{}", backordered.text);
}

#[test]
fn templates_that_cannot_be_used_are_told_all_at_once() {
    let files = files(&[
        ("shiped.txt", "Subject: on its way\n"),
        ("shipped.txt", "Subject: on its way\n\n{{ order_id }}\n{{ adress }}\n"),
        ("backordered.html", "{% if name %}"),
        ("canceled.txt", "Canceled\n"),
        ("back-in-stock.html", "{% for line in lines %}{{ line.price }}{% endfor %}"),
    ]);
    let Err(TemplatesError(errors)) = Templates::with(files, SHOP) else {
        panic!("they are taken");
    };
    assert_eq!(errors.len(), 5, "{errors:?}");
    let told = errors.join("\n");
    for part in [
        "shiped.txt is no mail",
        "shipped.txt: undefined value",
        "shipped.txt:4",
        "backordered.html: syntax error",
        "canceled.txt: its first line must begin with 'Subject: '",
        "back-in-stock.html: undefined value",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let unread = TemplateFile { name: "shipped.txt".into(), source: Err("is a folder".into()) };
    let unread = Templates::with(vec![unread], SHOP);
    assert!(unread.is_err_and(|error| error.to_string().contains("shipped.txt: is a folder")));
}
