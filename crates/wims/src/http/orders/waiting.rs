//! Waiting: the one thing an open order waits for, with its place in line.
//!
//! Promise: exactly one named thing, as it is when the engine is asked: an event under way, a timer,
//! stock of its skus, its payment's turn, or a person's act. What was counted is exact, or says that
//! there is more; an expected time follows from the learned rate and is no promise. It deliberately
//! decides nothing and looks at a bounded number of messages and entries only.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use wims_runtime::io::{Answer, Pause, PipePace, Place, Query, Stand, Turn};
use wims_stack::Doc;

use crate::domain::{
    BACKORDER, FulfillmentStatus, InventoryStatus, Line, OrderStatus, PaymentStatus, States, TABLE,
    lines,
};
use crate::http::problem::Problem;
use crate::http::{App, odd, rfc3339};

/// Where payments wait for their turn.
const PAYMENTS_QUEUE: &str = "payments-queue";
/// Where they wait for a person.
const PAYMENTS_DLQ: &str = "payments-dlq";
/// Where refunds wait for their turn.
const REFUNDS_QUEUE: &str = "refunds-queue";
/// Where they wait for a person.
const REFUNDS_DLQ: &str = "refunds-dlq";

/// What an order waits for.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Waiting {
    /// Something that is under way inside, or at the payments API.
    Event { event: Event },
    /// A time.
    Timer { until: String, then: Then },
    /// Stock to arrive, of each sku it is short of.
    Stock { skus: Vec<InLine> },
    /// Its payment's turn.
    Payment(PaymentTurn),
    /// Somebody to do something.
    Person {
        act: Act,
        #[serde(skip_serializing_if = "Option::is_none")]
        queue: Option<&'static str>,
    },
}

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// The decision on its stock.
    Stock,
    /// Its payment, on the way to the queue.
    Payment,
    /// The payments API's answer.
    PaymentAnswer,
    /// Its hand-over to fulfillment.
    HandOver,
}

/// What happens when a time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Then {
    /// Its payment is looked at again.
    Payment,
    /// What became of its payment is looked up.
    LookUp,
    /// Its refund is tried again.
    Refund,
}

/// What somebody has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Act {
    /// Ship it.
    Ship,
    /// Send its payment back from a dead-letter queue.
    Redrive,
    /// Pay in another way, or cancel it.
    Pay,
}

/// A place in the queue of a sku.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InLine {
    sku: String,
    /// What it wants of it.
    quantity: i64,
    /// From 1.
    place: usize,
    /// What those before it want.
    units_ahead: i64,
    /// `place`, `unitsAhead` and `missing` are only what was counted: there is more.
    is_more: bool,
    /// Units that nobody has.
    available: i64,
    /// Units to arrive until it and those before it can all be filled.
    missing: i64,
}

/// A place in the queue of payments, and when it may be its turn.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentTurn {
    queue: &'static str,
    /// Messages before it; none when it was not found among as many as are looked at.
    ahead: Option<usize>,
    /// There are more than that.
    is_more: bool,
    /// The learned rate, in payments a second.
    rate_per_second: Option<f64>,
    /// Until its turn, at that rate; at least that when there are more.
    expected_seconds: Option<u64>,
    expected_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_because: Option<&'static str>,
}

/// What an order needs, as its states tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Event(Event),
    Stock,
    Payment,
    Refund,
    Redrive { dead: &'static str, back: &'static str },
    Person(Act),
}

fn need(states: States) -> Option<Need> {
    Some(match states.status() {
        OrderStatus::Shipped | OrderStatus::Canceled => return None,
        OrderStatus::Canceling if states.payment == PaymentStatus::RefundPending => Need::Refund,
        OrderStatus::Canceling => Need::Payment,
        OrderStatus::Ready if states.fulfillment == FulfillmentStatus::Unfulfilled => {
            Need::Event(Event::HandOver)
        }
        OrderStatus::Ready => Need::Person(Act::Ship),
        OrderStatus::OnHold if states.payment == PaymentStatus::Declined => Need::Person(Act::Pay),
        OrderStatus::OnHold if states.payment == PaymentStatus::RefundFailed => {
            Need::Redrive { dead: REFUNDS_DLQ, back: REFUNDS_QUEUE }
        }
        OrderStatus::OnHold => Need::Redrive { dead: PAYMENTS_DLQ, back: PAYMENTS_QUEUE },
        OrderStatus::Backordered => Need::Stock,
        OrderStatus::Pending if states.inventory == InventoryStatus::Unreserved => {
            Need::Event(Event::Stock)
        }
        OrderStatus::Pending => Need::Payment,
    })
}

/// What an order waits for; `created` is its sequence.
///
/// # Errors
/// When the engine cannot be asked.
pub async fn of(app: &App, order: &Doc, created: u64) -> Result<Option<Waiting>, Problem> {
    let Some(states) = States::of(order) else { return Ok(None) };
    let is_unknown = states.payment == PaymentStatus::Unknown;
    let then = if is_unknown { Then::LookUp } else { Then::Payment };
    Ok(match need(states) {
        None => None,
        Some(Need::Event(event)) => Some(Waiting::Event { event }),
        Some(Need::Person(act)) => Some(Waiting::Person { act, queue: None }),
        Some(Need::Stock) => Some(stock(app, order).await?),
        Some(Need::Payment) => {
            let turn = turn(app, PAYMENTS_QUEUE, order, created).await?;
            Some(of_turn(PAYMENTS_QUEUE, turn, then, now_ms()))
        }
        Some(Need::Refund) => {
            let turn = turn(app, REFUNDS_QUEUE, order, created).await?;
            Some(of_turn(REFUNDS_QUEUE, turn, Then::Refund, now_ms()))
        }
        Some(Need::Redrive { dead, back }) => {
            Some(redrive(app, order, created, (dead, back)).await?)
        }
    })
}

/// What failed is among the dead letters, or sent back from there and not received yet.
async fn redrive(
    app: &App,
    order: &Doc,
    created: u64,
    (dead, queue): (&'static str, &'static str),
) -> Result<Waiting, Problem> {
    let is_absent = |turn: Option<Turn>| turn.is_none_or(|turn| turn.stand == Stand::Absent);
    let person = Waiting::Person { act: Act::Redrive, queue: Some(dead) };
    if !is_absent(turn(app, dead, order, created).await?) {
        return Ok(person);
    }
    let back = turn(app, queue, order, created).await?;
    let then = if queue == REFUNDS_QUEUE { Then::Refund } else { Then::LookUp };
    Ok(if is_absent(back) { person } else { of_turn(queue, back, then, now_ms()) })
}

/// Where the message of an order stands; `None` when the stack has no such queue.
async fn turn(
    app: &App,
    queue: &'static str,
    order: &Doc,
    created: u64,
) -> Result<Option<Turn>, Problem> {
    let value = order.str("orderId").unwrap_or("").to_owned();
    // The payment of who waited for stock was sent when it came.
    let since_ms = order.int("filledAt").and_then(|ms| u64::try_from(ms).ok());
    let query = Query::Turn { queue, attribute: "orderId", value, from: created, since_ms };
    let Answer::Turn(turn) = app.query(query).await? else { return Err(odd()) };
    Ok(turn)
}

fn of_turn(queue: &'static str, turn: Option<Turn>, then: Then, now_ms: u64) -> Waiting {
    let Some(Turn { stand, pace }) = turn else { return Waiting::Event { event: Event::Payment } };
    match stand {
        Stand::Held => Waiting::Event { event: Event::PaymentAnswer },
        Stand::Absent => Waiting::Event { event: Event::Payment },
        Stand::Hidden { until_ms } => Waiting::Timer { until: at(until_ms), then },
        Stand::Ready { ahead } => {
            let ahead = (Some(ahead.number), ahead.is_more);
            Waiting::Payment(payment_turn(queue, ahead, pace, now_ms))
        }
        Stand::Unknown => Waiting::Payment(payment_turn(queue, (None, true), pace, now_ms)),
    }
}

fn payment_turn(
    queue: &'static str,
    (ahead, is_more): (Option<usize>, bool),
    pace: Option<PipePace>,
    now_ms: u64,
) -> PaymentTurn {
    let paused = pace.and_then(|pace| pace.paused);
    let rate = pace.map(|pace| pace.rate_per_second);
    let pause_ms = paused.map_or(0, |(until_ms, _)| until_ms.saturating_sub(now_ms));
    let expected_ms = ahead.zip(rate.filter(|rate| *rate > 0.0)).map(|(ahead, rate)| {
        let turns_ms = (ahead + 1) as f64 / rate * 1_000.0;
        pause_ms.saturating_add(turns_ms.ceil() as u64)
    });
    PaymentTurn {
        queue,
        ahead,
        is_more,
        rate_per_second: rate.map(|rate| (rate * 1_000.0).round() / 1_000.0),
        expected_seconds: expected_ms.map(|ms| ms.div_ceil(1_000)),
        expected_at: expected_ms.map(|ms| at(now_ms.saturating_add(ms))),
        paused_until: paused.map(|(until_ms, _)| at(until_ms)),
        paused_because: paused.map(|(_, pause)| because(pause)),
    }
}

fn because(pause: Pause) -> &'static str {
    match pause {
        Pause::Asked => "the payments API asked to wait, or could not be reached",
        Pause::Unknowns => "several calls in a row had no known outcome",
        Pause::Misdirected => "the payments API's address or credentials are wrong",
    }
}

/// The queues an order waits in, as they are when asked one after the other.
async fn stock(app: &App, order: &Doc) -> Result<Waiting, Problem> {
    let order_id = order.str("orderId").unwrap_or("");
    let mut skus = Vec::new();
    for line in lines(order) {
        let pk = format!("{BACKORDER}{}", line.sku);
        let (sk, sum_of) = (order_id.to_owned(), "quantity");
        let place = Query::Place { table: TABLE, pk, sk, sum_of };
        let Answer::Place(place) = app.query(place).await? else { return Err(odd()) };
        let Some(place) = place else { continue };
        let item = Query::Get { table: TABLE, pk: line.sku.pk(), sk: line.sku.sk() };
        let Answer::Item(item) = app.query(item).await? else { return Err(odd()) };
        let available = item.and_then(|(item, _)| item.int("quantity")).unwrap_or(0);
        skus.push(in_line(&line, place, available));
    }
    // It was filled since it was read: what follows is under way.
    Ok(if skus.is_empty() {
        Waiting::Event { event: Event::Stock }
    } else {
        Waiting::Stock { skus }
    })
}

fn in_line(line: &Line<'_>, place: Place, available: i64) -> InLine {
    let units_ahead = place.sum_ahead;
    let wanted = units_ahead.saturating_add(line.quantity);
    InLine {
        sku: line.sku.to_string(),
        quantity: line.quantity,
        place: place.ahead.number + 1,
        units_ahead,
        is_more: place.ahead.is_more,
        available,
        missing: wanted.saturating_sub(available).max(0),
    }
}

fn at(ms: u64) -> String {
    rfc3339(i64::try_from(ms).unwrap_or(0))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wims_runtime::messages::Counted;

    use super::*;
    use crate::domain::DEFAULT_SKU;

    fn shown(waiting: &Waiting) -> Value {
        serde_json::to_value(waiting).expect("it is JSON")
    }

    fn counted(number: usize) -> Counted {
        Counted { number, is_more: false }
    }

    #[test]
    fn a_turn_in_the_queue_is_told_with_the_time_the_rate_makes_of_it() {
        let stand = Stand::Ready { ahead: counted(9) };
        let pace = Some(PipePace { rate_per_second: 2.0, paused: None });
        let shown =
            shown(&of_turn(PAYMENTS_QUEUE, Some(Turn { stand, pace }), Then::Payment, 1_000));
        let expected = json!({
            "kind": "payment", "queue": "payments-queue", "ahead": 9, "isMore": false,
            "ratePerSecond": 2.0, "expectedSeconds": 5, "expectedAt": "1970-01-01T00:00:06.000Z"
        });
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_pause_comes_before_the_turn_and_says_why() {
        let paused = Some((61_000, Pause::Misdirected));
        let pace = Some(PipePace { rate_per_second: 1.0, paused });
        let turn = payment_turn(PAYMENTS_QUEUE, (Some(0), false), pace, 1_000);
        assert_eq!(turn.expected_seconds, Some(61));
        assert_eq!(turn.paused_until.as_deref(), Some("1970-01-01T00:01:01.000Z"));
        assert_eq!(turn.paused_because, Some(because(Pause::Misdirected)));
        let none = payment_turn(
            PAYMENTS_QUEUE,
            (Some(7), true),
            Some(PipePace { rate_per_second: 0.0, paused }),
            0,
        );
        assert_eq!((none.expected_seconds, none.is_more), (None, true), "a rate of 0 has no turn");
        assert_eq!(payment_turn(PAYMENTS_QUEUE, (None, true), pace, 0).expected_at, None);
    }

    #[test]
    fn a_message_that_is_held_hidden_or_on_its_way_is_no_turn() {
        let of = |stand| {
            shown(&of_turn(PAYMENTS_QUEUE, Some(Turn { stand, pace: None }), Then::LookUp, 0))
        };
        assert_eq!(of(Stand::Held), json!({"kind": "event", "event": "paymentAnswer"}));
        assert_eq!(of(Stand::Absent), json!({"kind": "event", "event": "payment"}));
        let timer = of(Stand::Hidden { until_ms: 2_000 });
        let until = "1970-01-01T00:00:02.000Z";
        assert_eq!(timer, json!({"kind": "timer", "until": until, "then": "lookUp"}));
    }

    #[test]
    fn what_is_missing_is_what_all_up_to_it_want_less_what_is_there() {
        let line = Line { sku: DEFAULT_SKU, quantity: 3 };
        let place = Place { ahead: counted(2), sum_ahead: 9 };
        let skus = vec![in_line(&line, place, 5)];
        let expected = json!({"kind": "stock", "skus": [{
            "sku": "MACGUFFIN/LX", "quantity": 3, "place": 3, "unitsAhead": 9, "isMore": false,
            "available": 5, "missing": 7
        }]});
        assert_eq!(shown(&Waiting::Stock { skus }), expected);
    }

    #[test]
    fn a_person_is_told_the_act_and_the_queue_if_there_is_one() {
        let person = |act, queue| shown(&Waiting::Person { act, queue });
        assert_eq!(person(Act::Ship, None), json!({"kind": "person", "act": "ship"}));
        let redrive = json!({"kind": "person", "act": "redrive", "queue": "payments-dlq"});
        assert_eq!(person(Act::Redrive, Some(PAYMENTS_DLQ)), redrive);
    }

    #[test]
    fn every_status_an_open_order_can_have_needs_one_thing() {
        let of = |inventory, payment, fulfillment| need(States { inventory, payment, fulfillment });
        let (reserved, open) = (InventoryStatus::Reserved, FulfillmentStatus::Unfulfilled);
        let needs = [
            of(InventoryStatus::Unreserved, PaymentStatus::Pending, open),
            of(InventoryStatus::Backordered, PaymentStatus::Pending, open),
            of(reserved, PaymentStatus::Processing, open),
            of(reserved, PaymentStatus::Paid, open),
            of(reserved, PaymentStatus::Paid, FulfillmentStatus::Ready),
            of(reserved, PaymentStatus::Declined, open),
            of(reserved, PaymentStatus::Failed, open),
            of(InventoryStatus::Shipped, PaymentStatus::Paid, FulfillmentStatus::Shipped),
        ];
        let expected = [
            Some(Need::Event(Event::Stock)),
            Some(Need::Stock),
            Some(Need::Payment),
            Some(Need::Event(Event::HandOver)),
            Some(Need::Person(Act::Ship)),
            Some(Need::Person(Act::Pay)),
            Some(Need::Redrive { dead: PAYMENTS_DLQ, back: PAYMENTS_QUEUE }),
            None,
        ];
        assert_eq!(needs, expected);
    }
}
