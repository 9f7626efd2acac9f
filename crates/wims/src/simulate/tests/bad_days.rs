//! Bad days of the payments API that last hours, stock that runs low again and again, and what
//! mails the team gets of them. The stack and the functions are those of `serve`; the clock is
//! told, and nothing goes wrong except what a test asks for.

mod backorders;
mod four_days;

use std::collections::BTreeSet;

use wims_runtime::io::{
    Answer, ApiCall, CallReply, Input, MailJob, MailResult, MessageRow, PipeRow, Query, QueueRow,
    Redriven, Ticket,
};
use wims_runtime::record::Entry;
use wims_runtime::sim::world::SECOND_US;
use wims_runtime::sim::{Outside, SimHistory, Verdict, Violation, World, WorldOptions};
use wims_runtime::{EngineBugs, Functions};
use wims_stack::{Doc, Field, Stack};

use crate::domain::{DEFAULT_SKU, Sku, TABLE};
use crate::fns;
use crate::stack::{Settings, wims_stack};

/// Who reads the team's mails.
const TEAM: &str = "theteam@ourcompany.com";
/// How long the payments API takes to answer.
const ANSWER_US: u64 = 10_000;
const HOUR_S: u64 = 3_600;

fn stack() -> Stack {
    wims_stack(&Settings { team_email: TEAM.into(), ..Settings::default() })
}

/// What is around the engine: a payments API that answers with the status it is told, and a mail
/// server. Both write down what they see, and when.
#[derive(Default)]
struct Town {
    to_charge: u16,
    to_look_up: u16,
    calls: Vec<(u64, ApiCall)>,
    /// Mails the server is too busy for.
    busy: usize,
    mails: Vec<(u64, MailJob)>,
    answer: Option<Answer>,
}

impl Town {
    /// Calls that charge; the others look up.
    fn charges(&self) -> Vec<&(u64, ApiCall)> {
        self.calls.iter().filter(|(_, call)| call.body.is_some()).collect()
    }
}

impl Outside for Town {
    fn due_us(&self) -> Option<u64> {
        None
    }

    fn ask(&mut self, _: u64, _: &SimHistory, _: &mut Vec<Input>) {}

    fn answered(&mut self, _: u64, _: Ticket, answer: Answer, _: &SimHistory) -> Verdict {
        self.answer = Some(answer);
        Ok(())
    }

    fn called(&mut self, now_us: u64, call: &ApiCall) -> Result<(u64, CallReply), Violation> {
        self.calls.push((now_us, call.clone()));
        let status = if call.body.is_some() { self.to_charge } else { self.to_look_up };
        let told = |name, text| Some(Doc::object(&[(name, Field::Str(text))]));
        let body = match status {
            200 => told("status", "PAID"),
            402 => told("reason", "insufficient_funds"),
            422 => told("detail", "unknown card"),
            _ => None,
        };
        Ok((ANSWER_US, CallReply::Answered { status, retry_after_ms: None, body }))
    }

    fn mailed(&mut self, now_us: u64, mail: &MailJob) -> Result<MailResult, Violation> {
        self.mails.push((now_us, mail.clone()));
        if self.busy == 0 {
            return Ok(MailResult::Sent);
        }
        self.busy -= 1;
        Ok(MailResult::Retry("the server is busy".into()))
    }

    fn durable(&mut self, _: u64, _: &[Entry]) -> Verdict {
        Ok(())
    }

    fn restarted(&mut self, _: u64, _: &SimHistory, _: &mut Vec<Input>) {
        unreachable!("no process dies here");
    }
}

/// A shop in that town.
struct Shop<'a> {
    world: World<'a>,
    town: Town,
}

impl<'a> Shop<'a> {
    /// A shop with the article's item, whose payments API answers with these statuses.
    fn open(stack: &'a Stack, functions: &'a Functions, to_charge: u16, to_look_up: u16) -> Self {
        let options = WorldOptions {
            seed: 1,
            segment_bytes: 8 << 20,
            frames_per_life: 1..=1,
            bugs: EngineBugs::default(),
        };
        let mut world = World::new(stack, functions, options).expect("the stack can run");
        world.calm();
        let mut shop = Shop { world, town: Town::default() };
        // The first thing asked lets it prepare its journal.
        shop.query(Query::Ready);
        shop.call("seed-inventory", &[]);
        shop.answers(to_charge, to_look_up);
        shop
    }

    /// From now on the payments API answers with these statuses.
    fn answers(&mut self, to_charge: u16, to_look_up: u16) {
        (self.town.to_charge, self.town.to_look_up) = (to_charge, to_look_up);
    }

    fn pass_s(&mut self, seconds: u64) {
        let until_us = self.world.now_us() + seconds * SECOND_US;
        self.world.run_until(&mut self.town, until_us).expect("no promise is broken");
    }

    /// Asks, which takes a second.
    fn ask(&mut self, input: Input) -> Answer {
        self.world.ask_at_once(vec![input]);
        self.pass_s(1);
        self.town.answer.take().expect("it is answered")
    }

    fn query(&mut self, query: Query) -> Answer {
        self.ask(Input::Query { ticket: Ticket { inbox: 0, slot: 0 }, query })
    }

    fn call(&mut self, route: &'static str, fields: &[(&str, Field<'_>)]) -> Doc {
        let (ticket, arguments) = (Ticket { inbox: 0, slot: 0 }, Doc::object(fields));
        let (history, trace, key) = (None, None, None);
        match self.ask(Input::Call { ticket, route, arguments, history, trace, key }) {
            Answer::Done(reply) => reply,
            other => panic!("{route}: {other:?}"),
        }
    }

    /// Places an order; its id.
    fn order(&mut self, quantity: i64) -> String {
        let customer = ("customerId", Field::Str("349"));
        let reply = self.call("create-order", &[customer, ("quantity", Field::Int(quantity))]);
        reply.str("orderId").expect("an id").to_owned()
    }

    /// Describes an item, new or known, with this reorder point.
    fn describe(&mut self, sku: Sku<'_>, reorder_point: i64) {
        let fields = [
            ("product", Field::Str(sku.product)),
            ("model", Field::Str(sku.model)),
            ("productName", Field::Str("MacGuffin")),
            ("unitPrice", Field::Int(2_500)),
            ("reorderPoint", Field::Int(reorder_point)),
        ];
        self.call("put-item", &fields);
    }

    /// Books stock that came.
    fn receive(&mut self, sku: Sku<'_>, quantity: i64) {
        let (product, model) = (Field::Str(sku.product), Field::Str(sku.model));
        let quantity = ("quantity", Field::Int(quantity));
        self.call("receive-stock", &[("product", product), ("model", model), quantity]);
    }

    /// Subjects of the mails of low stock.
    fn told_low(&self) -> Vec<&str> {
        let subjects = self.town.mails.iter().map(|(_, mail)| mail.subject.as_str());
        subjects.filter_map(|subject| subject.strip_prefix("Stock is low: ")).collect()
    }

    fn item(&mut self, query: Query) -> Doc {
        match self.query(query) {
            Answer::Item(Some((item, _))) => item,
            other => panic!("no item: {other:?}"),
        }
    }

    /// The order with this id.
    fn stored(&mut self, order: &str) -> Doc {
        let value = order.to_owned();
        self.item(Query::Find { table: TABLE, attribute: "orderId", value })
    }

    /// What `GET /queues/{name}/messages` shows.
    fn messages(&mut self, queue: &str) -> Vec<MessageRow> {
        match self.query(Query::Peek { queue: queue.to_owned(), from: 0, limit: 100 }) {
            Answer::Messages(Some(rows)) => rows,
            other => panic!("no queue {queue}: {other:?}"),
        }
    }

    /// What `GET /queues` shows of a queue: messages that are visible, held and hidden.
    fn queue(&mut self, queue: &str) -> (usize, usize, usize) {
        match self.query(Query::Queues) {
            Answer::Queues(rows) => {
                let row = rows.iter().find(|row| row.name == queue).expect("it is there");
                let QueueRow { messages, in_flight, delayed, .. } = *row;
                (messages, in_flight, delayed)
            }
            other => panic!("no queues: {other:?}"),
        }
    }

    /// Sends all dead letters of a queue back; how many.
    fn redrive(&mut self, queue: &str) -> usize {
        let queue = queue.to_owned();
        match self.query(Query::Redrive { queue, limit: 100, dry_run: false }) {
            Answer::Moved(Some(Redriven { moved, left: 0 })) => moved,
            other => panic!("nothing is sent back: {other:?}"),
        }
    }

    /// The pipe to the payments API, as `GET /metrics` shows it.
    fn pipe(&mut self) -> PipeRow {
        match self.query(Query::Status) {
            Answer::Status(status) => status.pipes[0].clone(),
            other => panic!("no status: {other:?}"),
        }
    }
}

/// `status` and `paymentStatus` of an order.
fn states(order: &Doc) -> (Option<&str>, Option<&str>) {
    (order.str("status"), order.str("paymentStatus"))
}

#[test]
fn a_payment_that_stays_unknown_is_a_dead_letter_after_ten_attempts_that_back_off() {
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 500, 404);
    let order = shop.order(7);
    shop.pass_s(6 * HOUR_S);
    let charges = shop.town.charges();
    assert_eq!(charges.len(), 10);
    let waits_us = charges.windows(2).map(|pair| pair[1].0 - pair[0].0);
    for (attempt, wait_us) in (0_u32..).zip(waits_us) {
        // 30 seconds doubling to 15 minutes, up to a quarter less; and what look-up and pace take.
        let longest_us = (30_u64 << attempt).min(900) * SECOND_US;
        let range = longest_us * 3 / 4..=longest_us + 5 * SECOND_US;
        assert!(range.contains(&wait_us), "{wait_us} us after attempt {}", attempt + 1);
    }
    assert_eq!(shop.town.calls.len(), 10 + 9, "looked up before every try but the first");

    let held = shop.stored(&order);
    assert_eq!(states(&held), (Some("ON_HOLD"), Some("FAILED")));
    assert_eq!(held.str("reason"), Some("the API answered 500"));
    assert_eq!(shop.queue("payments-queue"), (0, 0, 0));
    assert_eq!(shop.queue("payments-dlq"), (1, 0, 0));
    let letter = shop.messages("payments-dlq").remove(0);
    assert_eq!(letter.body.str("orderId"), Some(order.as_str()));
    let attributes = letter.attributes.expect("they say why");
    assert_eq!(attributes.int("RETRY_ATTEMPTS"), Some(10));
    assert_eq!(attributes.str("ERROR_MESSAGE"), Some("the API answered 500"));
    // The fifth unknown outcome paused the pipe, more than a quarter of an hour before.
    let mails: Vec<_> = shop.town.mails.iter().map(|(_, mail)| mail.text.as_str()).collect();
    assert_eq!(mails.len(), 2, "{mails:?}");
    assert!(mails[0].contains("PaymentsPipe") && mails[0].contains("5 calls"), "{mails:?}");
    assert!(mails[1].contains("payments-dlq"), "{mails:?}");
}

#[test]
fn a_dead_payment_that_is_redriven_is_paid_under_the_key_of_its_first_attempt() {
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 500, 404);
    let order = shop.order(7);
    shop.pass_s(6 * HOUR_S);
    let before = shop.town.calls.len();
    shop.answers(200, 404);
    shop.pass_s(HOUR_S);
    assert_eq!(shop.town.calls.len(), before, "dead letters wait for a person");

    assert_eq!(shop.redrive("payments-dlq"), 1);
    shop.pass_s(10);
    let paid = shop.stored(&order);
    assert_eq!(states(&paid), (Some("READY"), Some("PAID")));
    assert_eq!(paid.str("reason"), None);
    assert_eq!(shop.queue("payments-dlq"), (0, 0, 0));
    assert_eq!(shop.queue("payments-queue"), (0, 0, 0));
    let again: Vec<_> = shop.town.calls[before..].iter().map(|(_, c)| c.body.is_some()).collect();
    assert_eq!(again, [false, true], "looked up, then charged");
    let keys: BTreeSet<_> = shop.town.calls.iter().map(|(_, call)| call.key.as_str()).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let charges = shop.town.charges();
    assert_eq!(charges.len(), 11);
    assert!(charges.iter().all(|(_, call)| call.body == charges[0].1.body), "{charges:?}");
}

#[test]
fn a_redriven_payment_waits_for_its_look_up_and_for_no_person() {
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 422, 404);
    let order = shop.order(7);
    shop.pass_s(10);
    assert_eq!(states(&shop.stored(&order)), (Some("ON_HOLD"), Some("FAILED")));
    shop.answers(200, 500);
    assert_eq!(shop.redrive("payments-dlq"), 1);
    shop.pass_s(60);
    assert_eq!(states(&shop.stored(&order)), (Some("PENDING"), Some("UNKNOWN")));
    assert_eq!(shop.town.charges().len(), 1, "nothing is charged before it is looked up");
    shop.answers(200, 404);
    shop.pass_s(10);
    assert_eq!(states(&shop.stored(&order)), (Some("READY"), Some("PAID")));
    assert_eq!(shop.queue("payments-queue"), (0, 0, 0));
}

#[test]
fn the_redrive_of_its_queue_alone_says_when_and_where_a_payment_is_a_dead_letter() {
    let mut edited = serde_json::to_value(stack()).expect("a stack is JSON");
    let queues = edited["queues"].as_array_mut().expect("queues");
    let queue = queues.iter_mut().find(|queue| queue["name"] == "payments-queue");
    queue.expect("it is declared")["redrive"] =
        serde_json::json!({"dead_letters": "events-dlq", "receive_count_max": 3});
    let stack: Stack = serde_json::from_value(edited).expect("a stack");
    let functions = fns::all();
    let mut shop = Shop::open(&stack, &functions, 500, 404);
    let unknown = shop.order(7);
    shop.pass_s(6 * HOUR_S);
    assert_eq!(shop.town.charges().len(), 3);
    assert_eq!(states(&shop.stored(&unknown)), (Some("ON_HOLD"), Some("FAILED")));
    shop.answers(422, 404);
    let refused = shop.order(1);
    shop.pass_s(10);
    assert_eq!(states(&shop.stored(&refused)), (Some("ON_HOLD"), Some("FAILED")));

    assert_eq!(shop.queue("payments-dlq"), (0, 0, 0));
    let letters = shop.messages("events-dlq");
    let of = |letter: &MessageRow| letter.body.str("orderId").map(str::to_owned);
    assert_eq!(letters.iter().map(of).collect::<Vec<_>>(), [Some(unknown), Some(refused.clone())]);
    let attempts = |letter: &MessageRow| letter.attributes.as_ref()?.int("RETRY_ATTEMPTS");
    assert_eq!(letters.iter().map(attempts).collect::<Vec<_>>(), [Some(3), Some(0)]);

    shop.answers(200, 404);
    assert_eq!(shop.redrive("events-dlq"), 2);
    shop.pass_s(10);
    assert_eq!(states(&shop.stored(&refused)), (Some("READY"), Some("PAID")));
    assert_eq!(shop.queue("payments-queue"), (0, 0, 0));
}

#[test]
fn look_ups_that_fail_use_no_attempt_and_the_first_that_works_settles_the_payment() {
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 500, 500);
    let order = shop.order(7);
    shop.pass_s(HOUR_S);
    assert_eq!(states(&shop.stored(&order)), (Some("PENDING"), Some("UNKNOWN")));
    assert_eq!(shop.messages("payments-queue")[0].attempts, 1);
    let look_ups = shop.town.calls.len() - 1;
    assert!(look_ups >= 100, "{look_ups} look-ups in an hour");
    shop.answers(500, 200);
    shop.pass_s(10);
    assert_eq!(states(&shop.stored(&order)), (Some("READY"), Some("PAID")));
    assert_eq!(shop.town.charges().len(), 1, "it was charged by the call nobody answered");
    assert_eq!(shop.queue("payments-queue"), (0, 0, 0));
}

#[test]
fn a_declined_order_is_on_hold_with_its_reason_and_keeps_its_stock() {
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 402, 404);
    let order = shop.order(7);
    shop.pass_s(24 * HOUR_S);
    let held = shop.stored(&order);
    assert_eq!(states(&held), (Some("ON_HOLD"), Some("DECLINED")));
    assert_eq!(held.str("reason"), Some("insufficient_funds"));
    assert_eq!(held.str("inventoryStatus"), Some("RESERVED"));
    let (pk, sk) = (DEFAULT_SKU.pk(), DEFAULT_SKU.sk());
    let item = shop.item(Query::Get { table: TABLE, pk, sk });
    assert_eq!((item.int("quantity"), item.int("reserved")), (Some(999_993), Some(7)));
    // An answer is an answer: nothing is tried again, dead or told.
    assert_eq!(shop.town.calls.len(), 1);
    assert_eq!(shop.queue("payments-queue"), (0, 0, 0));
    assert_eq!(shop.queue("payments-dlq"), (0, 0, 0));
    assert!(shop.town.mails.is_empty(), "{:?}", shop.town.mails);
}

#[test]
fn wrong_credentials_pause_the_pipe_mail_the_team_once_and_use_no_attempt() {
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 401, 401);
    let orders: Vec<String> = (1..=3).map(|quantity| shop.order(quantity)).collect();
    shop.pass_s(600);
    let calls = shop.town.calls.len();
    assert!((9..=12).contains(&calls), "{calls} calls in ten minutes, one a minute");
    let waiting = shop.messages("payments-queue");
    assert_eq!(waiting.iter().map(|message| message.attempts).collect::<Vec<_>>(), [0, 0, 0]);
    for order in &orders {
        assert_eq!(states(&shop.stored(order)), (Some("PENDING"), Some("PENDING")));
    }
    let pipe = shop.pipe();
    assert!(pipe.paused && pipe.unknowns == 0, "{pipe:?}");
    assert_eq!(shop.town.mails.len(), 1);
    let mail = &shop.town.mails[0].1;
    assert!(mail.text.contains("PaymentsPipe is paused: the API answered 401"), "{mail:?}");

    // Whoever mends it need not tell the pipe.
    shop.answers(200, 404);
    shop.pass_s(65);
    for order in &orders {
        assert_eq!(states(&shop.stored(order)), (Some("READY"), Some("PAID")));
    }
    assert!(!shop.pipe().paused);
    assert_eq!(shop.queue("payments-queue"), (0, 0, 0));
    assert_eq!(shop.queue("payments-dlq"), (0, 0, 0));
    assert_eq!(shop.town.mails.len(), 1);
}

#[test]
fn the_first_dead_letter_is_told_at_once_and_those_within_15_minutes_in_one_digest() {
    const LETTER: &str = "went to the dead-letter queue payments-dlq: the API answered 422";
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 422, 404);
    let told = |shop: &Shop<'_>| -> Vec<usize> {
        shop.town.mails.iter().map(|(_, mail)| mail.text.matches(LETTER).count()).collect()
    };
    shop.order(1);
    shop.pass_s(5);
    assert_eq!(told(&shop), [1], "the first at once");
    for _ in 0..3 {
        shop.order(1);
        shop.pass_s(180);
    }
    assert_eq!(told(&shop), [1], "the next ones are gathered");
    assert_eq!(shop.queue("team-alerts-mails"), (3, 0, 0));
    shop.pass_s(600);
    assert_eq!(told(&shop), [1, 3], "in one mail");
    let after_us = shop.town.mails[1].0 - shop.town.mails[0].0;
    assert!((900 * SECOND_US..=902 * SECOND_US).contains(&after_us), "{after_us} us later");
    // A digest begins a quarter of an hour as well, and then the next one is a first one again.
    shop.order(1);
    shop.pass_s(5);
    assert_eq!(told(&shop), [1, 3]);
    shop.pass_s(900);
    assert_eq!(told(&shop), [1, 3, 1]);
    shop.pass_s(900);
    shop.order(1);
    shop.pass_s(5);
    assert_eq!(told(&shop), [1, 3, 1, 1]);
    let mails: Vec<_> = shop.town.mails.iter().map(|(_, mail)| mail).collect();
    assert!(mails.iter().all(|mail| mail.to == TEAM), "{mails:?}");
    assert_eq!(mails[1].subject, "WIMS needs a person: 3 alerts");
    let ids: BTreeSet<_> = mails.iter().map(|mail| mail.message_id.as_str()).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    assert_eq!(shop.queue("team-alerts-mails"), (0, 0, 0));
}

#[test]
fn a_digest_no_server_took_is_repeated_whole_under_its_message_id() {
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 422, 404);
    shop.order(1);
    shop.pass_s(5);
    (0..3).for_each(|_| drop(shop.order(1)));
    shop.town.busy = 2;
    shop.pass_s(930);
    let mails: Vec<_> = shop.town.mails.iter().map(|(_, mail)| mail).collect();
    assert_eq!(mails[1].subject, "WIMS needs a person: 3 alerts");
    let known = (&mails[1].message_id, &mails[1].text);
    let tries: Vec<_> = mails[1..].iter().map(|mail| (&mail.message_id, &mail.text)).collect();
    assert_eq!(tries, [known; 3], "two tries in vain and one that was taken");
    assert_eq!(shop.queue("team-alerts-mails"), (0, 0, 0));
}

#[test]
fn stock_that_runs_low_again_within_the_hour_is_mailed_when_it_ends_and_only_its_newest_state() {
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 200, 404);
    shop.describe(DEFAULT_SKU, 999_990);
    shop.order(10);
    shop.pass_s(60);
    assert_eq!(shop.told_low(), ["MACGUFFIN/LX has 999990 left"], "the first at once");
    for quantity in [101, 105] {
        shop.receive(DEFAULT_SKU, 100);
        shop.order(quantity);
    }
    assert_eq!(shop.queue("inventory-stock-mails"), (0, 0, 1), "only the newest waits");
    // Another item has an hour of its own.
    let bolt = Sku { product: "BOLT", model: "M8" };
    shop.describe(bolt, 0);
    shop.receive(bolt, 5);
    shop.describe(bolt, 10);
    assert_eq!(shop.told_low()[1..], ["BOLT/M8 has 5 left"]);
    shop.pass_s(HOUR_S);
    assert_eq!(shop.told_low()[2..], ["MACGUFFIN/LX has 999984 left"]);
    let after_us = shop.town.mails[2].0 - shop.town.mails[0].0;
    // From one try to the next; a mail leaves some milliseconds after its try began.
    let range = HOUR_S * SECOND_US - SECOND_US / 10..=HOUR_S * SECOND_US + 2 * SECOND_US;
    assert!(range.contains(&after_us), "{after_us} us later");
    assert_eq!(shop.queue("inventory-stock-mails"), (0, 0, 0));
    // That mail began an hour as well; once it has passed the next one is a first one again.
    shop.pass_s(HOUR_S);
    assert_eq!(shop.told_low().len(), 3, "nothing is told twice");
    shop.receive(DEFAULT_SKU, 100);
    shop.order(100);
    shop.pass_s(5);
    assert_eq!(shop.told_low()[3..], ["MACGUFFIN/LX has 999984 left"]);
}

#[test]
fn a_mail_that_waited_for_its_hour_is_repeated_under_its_message_id() {
    let (stack, functions) = (stack(), fns::all());
    let mut shop = Shop::open(&stack, &functions, 200, 404);
    shop.describe(DEFAULT_SKU, 999_990);
    shop.order(10);
    shop.receive(DEFAULT_SKU, 100);
    shop.order(101);
    assert_eq!(shop.told_low().len(), 1);
    shop.town.busy = 2;
    shop.pass_s(HOUR_S + 60);
    let mails: Vec<_> = shop.town.mails.iter().map(|(_, mail)| mail).collect();
    let known = (&mails[1].message_id, &mails[1].text);
    assert_ne!(&mails[0].message_id, known.0);
    let tries: Vec<_> = mails[1..].iter().map(|mail| (&mail.message_id, &mail.text)).collect();
    assert_eq!(tries, [known; 3], "two tries in vain and one that was taken");
    assert_eq!(shop.queue("inventory-stock-mails"), (0, 0, 0));
}
