//! Bad days of the stock: it runs out, and orders wait. The four ways to lose the wake-up of one
//! that waits, each through the stack that runs; orders of several lines are placed here whatever
//! the shop's own door takes.

use wims_runtime::Function;
use wims_runtime::functions::{Refusal, RouteInput, Routed};
use wims_stack::{Action, Condition, Update, Write};

use super::*;
use crate::domain::lines;
use crate::fns::backorders::queue_of;

const A: Sku<'static> = Sku { product: "BOLT", model: "A" };
const B: Sku<'static> = Sku { product: "BOLT", model: "B" };

/// Takes an order of the lines it is told.
fn place(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let mut routed = fns::orders::create_order(input)?;
    for write in &mut routed.writes {
        if let (Action::Put(order), Some(told)) = (&mut write.action, input.arguments.get("told")) {
            *order = order.with(&[("lines", Some(Field::View(told)))]);
        }
    }
    Ok(routed)
}

/// Lets an order go that waits: what a cancel has to do with the queues.
fn give_up(input: &RouteInput<'_>) -> Result<Routed, Refusal> {
    let order_id = input.arguments.str("orderId").unwrap_or("");
    let order = input.reads.find("orderId", order_id).expect("it waits");
    let write = |pk: String, sk: String, action| Write { pk, sk, condition: None, action };
    let key = |name| order.str(name).unwrap_or("").to_owned();
    let released = vec![Update::set_str("inventoryStatus", "RELEASED")];
    let mut writes = vec![write(key("pk"), key("sk"), Action::Update(released))];
    for line in lines(order) {
        let queue = queue_of(&line.sku);
        if input.reads.get(&queue, order_id).is_some() {
            writes.push(write(queue, order_id.to_owned(), Action::Delete));
            let fewer = Action::Update(vec![Update::Add("backordered", (-1).into())]);
            let condition = Some(Condition::AtLeast("backordered".into(), 1.into()));
            writes.push(Write { condition, ..write(line.sku.pk(), line.sku.sk(), fewer) });
        }
    }
    Ok(Routed { writes, reply: order.clone() })
}

fn functions() -> Functions {
    let all = fns::all().with("create-order", Function::Route(place));
    all.with("ship-order", Function::Route(give_up))
}

/// A request for an order of these lines.
fn wanted(of: &[(Sku<'_>, i64)]) -> Input {
    let told = Doc::build(|w| {
        w.list(|w| {
            for (sku, quantity) in of {
                let sku = sku.to_string();
                w.object(&[("quantity", Field::Int(*quantity)), ("sku", Field::Str(&sku))]);
            }
        });
    });
    let arguments = Doc::object(&[
        ("customerId", Field::Str("349")),
        ("quantity", Field::Int(1)),
        ("told", Field::View(told.view())),
    ]);
    let ticket = Ticket { inbox: 0, slot: 0 };
    Input::Call { ticket, route: "create-order", arguments, history: None, trace: None, key: None }
}

fn receipt(sku: Sku<'_>, quantity: i64) -> Input {
    let arguments = Doc::object(&[
        ("model", Field::Str(sku.model)),
        ("product", Field::Str(sku.product)),
        ("quantity", Field::Int(quantity)),
    ]);
    let ticket = Ticket { inbox: 0, slot: 0 };
    Input::Call { ticket, route: "receive-stock", arguments, history: None, trace: None, key: None }
}

impl Shop<'_> {
    /// Places an order of these lines; its id.
    fn place(&mut self, of: &[(Sku<'_>, i64)]) -> String {
        match self.ask(wanted(of)) {
            Answer::Done(reply) => reply.str("orderId").expect("an id").to_owned(),
            other => panic!("no order: {other:?}"),
        }
    }

    /// Asks for all of it in one instant.
    fn ask_all(&mut self, inputs: Vec<Input>) {
        self.world.ask_at_once(inputs);
        self.pass_s(1);
    }

    fn status(&mut self, order: &str) -> String {
        self.stored(order).str("status").unwrap_or("").to_owned()
    }

    /// What is free, reserved and waited for of a sku.
    fn stock(&mut self, sku: Sku<'_>) -> [i64; 3] {
        let item = self.item(Query::Get { table: TABLE, pk: sku.pk(), sk: sku.sk() });
        ["quantity", "reserved", "backordered"].map(|name| item.int(name).expect("a number"))
    }
}

/// A shop that has two items and none of either.
fn open<'a>(stack: &'a Stack, functions: &'a Functions) -> Shop<'a> {
    let mut shop = Shop::open(stack, functions, 200, 404);
    shop.describe(A, 0);
    shop.describe(B, 0);
    shop
}

#[test]
fn a_receipt_in_the_instant_of_the_order_leaves_nobody_waiting() {
    let (stack, functions) = (stack(), functions());
    let mut shop = open(&stack, &functions);
    shop.ask_all(vec![wanted(&[(A, 5)]), receipt(A, 5)]);
    shop.ask_all(vec![receipt(B, 5), wanted(&[(B, 5)])]);
    assert_eq!((shop.stock(A), shop.stock(B)), ([0, 5, 0], [0, 5, 0]));
}

#[test]
fn a_head_that_is_canceled_lets_the_smaller_orders_behind_it_go() {
    let (stack, functions) = (stack(), functions());
    let mut shop = open(&stack, &functions);
    shop.receive(A, 5);
    let head = shop.place(&[(A, 9)]);
    let (second, third) = (shop.place(&[(A, 2)]), shop.place(&[(A, 3)]));
    assert_eq!(shop.stock(A), [5, 0, 3], "what is free is held back by the head");
    shop.call("ship-order", &[("orderId", Field::Str(&head))]);
    shop.pass_s(10);
    assert_eq!(shop.stock(A), [0, 5, 0]);
    assert_eq!([shop.status(&second), shop.status(&third)], ["READY", "READY"]);
}

#[test]
fn an_order_filled_through_one_sku_lets_the_queue_of_its_other_one_go_on() {
    let (stack, functions) = (stack(), functions());
    let mut shop = open(&stack, &functions);
    let head = shop.place(&[(A, 5), (B, 5)]);
    let behind = shop.place(&[(A, 3)]);
    shop.receive(A, 8);
    assert_eq!(shop.stock(A), [8, 0, 2], "the head lacks the other");
    // Nothing but this comes: stock of the other sku.
    shop.receive(B, 5);
    shop.pass_s(10);
    assert_eq!((shop.stock(A), shop.stock(B)), ([0, 8, 0], [0, 5, 0]));
    assert_eq!([shop.status(&head), shop.status(&behind)], ["READY", "READY"]);
}

#[test]
fn a_receipt_that_serves_more_than_a_run_fills_goes_on_until_it_is_used_up() {
    let (stack, functions) = (stack(), functions());
    let mut shop = open(&stack, &functions);
    shop.ask_all((0..1_000).map(|_| wanted(&[(A, 1)])).collect());
    assert_eq!(shop.stock(A), [0, 0, 1_000]);
    shop.receive(A, 900);
    assert_eq!(shop.stock(A), [0, 900, 100]);
}

#[test]
fn an_order_that_waited_is_paid_once_though_its_first_message_still_waits() {
    let (stack, functions) = (stack(), functions());
    let mut shop = open(&stack, &functions);
    // The credentials are wrong: no message has its turn.
    shop.answers(401, 401);
    let before = shop.order(1);
    shop.pass_s(10);
    let order = shop.place(&[(A, 2)]);
    shop.receive(A, 2);
    assert_eq!(shop.status(&order), "PENDING");
    shop.answers(200, 404);
    shop.pass_s(HOUR_S);
    assert_eq!([shop.status(&before), shop.status(&order)], ["READY", "READY"]);
    let calls = &shop.town.calls;
    let of_order = calls.iter().filter(|(_, call)| call.key.starts_with(&order));
    assert_eq!(of_order.count(), 1, "{calls:?}");
    assert_eq!(shop.queue("payments-queue"), (0, 0, 0));
}
