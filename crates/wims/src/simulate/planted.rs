//! Planted bugs of the runtime and of the business, to test the simulator itself.
//!
//! Promise: each is a plausible mistake in one function or one declaration; the auditor must find
//! it within 20 seeds. None of them is ever part of a running system: they are mixed in only here,
//! and a release binary has nothing of this file and no flag that asks for it.

use std::hash::{DefaultHasher, Hash, Hasher};

use wims_runtime::functions::{Delivery, DeliveryInput, TaskError, TaskInput};
use wims_runtime::recovery::Planted;
use wims_runtime::{Function, Functions};
use wims_stack::{Action, Condition, Doc, Field, Machine, Stack, StateKind, Task, Update, Write};

use super::SimPlan;
use crate::domain::{InventoryStatus, Move, PaymentStatus, charge_key, lines, moved};
use crate::fns;
use crate::stack::{Settings, wims_stack};

/// Names of all planted bugs.
pub const PLANTED: [&str; 14] = [
    "reply-before-sync",
    "skip-sync",
    "new-key-on-retry",
    "cursor-apart",
    "timer-lost",
    "key-forgotten",
    "accept-torn-tail",
    "accept-flipped-bit",
    "reserve-without-guard",
    "charge-before-reserved",
    "double-charge",
    "reserve-again",
    "backorder-wake-up-lost",
    "notice-never-ends",
];

/// A plan with a planted bug; `None` when there is none of that name.
pub fn plan_with(name: &str, orders: u64) -> Option<SimPlan> {
    let mut plan = SimPlan { orders, ..SimPlan::default() };
    let bugs = &mut plan.bugs;
    match name {
        "reply-before-sync" => bugs.reply_before_sync = Planted::ON,
        "skip-sync" => bugs.skip_sync = Planted::ON,
        "new-key-on-retry" => bugs.new_key_on_retry = Planted::ON,
        "cursor-apart" => bugs.cursor_apart = Planted::ON,
        "timer-lost" => {
            bugs.lose_timers = Planted::ON;
            // Without a task that fails no execution ever waits.
            plan.functions = functions_that_wait();
        }
        "key-forgotten" => bugs.late_keys = Planted::ON,
        "accept-torn-tail" => bugs.recovery.accept_torn_tail = Planted::ON,
        "accept-flipped-bit" => bugs.recovery.accept_flipped_bit = Planted::ON,
        "notice-never-ends" => {
            let bug = Function::Noticed(|_, _| Vec::new());
            plan.functions = plan.functions.with("customer-notified", bug);
        }
        "reserve-without-guard" => {
            let bug = Function::Transact(reserve_without_guard);
            plan.functions = plan.functions.with("reserve-stock", bug);
        }
        "charge-before-reserved" => {
            let bug = Function::Prepare(charge_before_reserved);
            plan.functions = plan.functions.with("prepare-payment", bug);
        }
        "double-charge" => {
            let bug = Function::Prepare(charge_anew);
            plan.functions = plan.functions.with("prepare-payment", bug);
        }
        "reserve-again" => plan.stack = reserve_again,
        "backorder-wake-up-lost" => plan.stack = wakes_at_an_empty_shelf_only,
        _ => return None,
    }
    Some(plan)
}

/// The business, its reservations refused for a moment in three of ten tries. That is no bug: they
/// are tried again.
pub fn functions_that_wait() -> Functions {
    fns::all().with("reserve-stock", Function::Transact(reserve_when_not_throttled))
}

fn reserve_when_not_throttled(input: &TaskInput<'_>) -> Result<Vec<Write>, TaskError> {
    let mut hasher = DefaultHasher::new();
    (input.item.str("orderId"), input.now_ms).hash(&mut hasher);
    if hasher.finish() % 10 < 3 {
        let (name, cause) = ("DynamoDB.ThrottlingException".into(), "too many requests".into());
        return Err(TaskError { name, cause });
    }
    fns::inventory::reserve_stock(input)
}

/// Reserves without looking whether there is enough.
fn reserve_without_guard(input: &TaskInput<'_>) -> Result<Vec<Write>, TaskError> {
    let to = Move::Inventory(InventoryStatus::Reserved);
    let reserved = moved(input.item, to, input.now_ms);
    let mut writes = vec![unguarded(input.item, reserved)];
    writes.extend(lines(input.item).iter().map(|line| Write {
        pk: line.sku.pk(),
        sk: line.sku.sk(),
        condition: None,
        action: Action::Update(vec![
            Update::Add("quantity", (-line.quantity).into()),
            Update::Add("reserved", line.quantity.into()),
        ]),
    }));
    Ok(writes)
}

/// Declares that an order's stock is reserved each time its event comes.
fn reserve_again(settings: &Settings) -> Stack {
    let mut stack = wims_stack(settings);
    stack.workflows.iter_mut().for_each(|workflow| drop_guard(&mut workflow.machine));
    stack
}

/// Declares that who waits is looked at when stock comes to where there was none, as if nobody
/// could wait for more than there is.
fn wakes_at_an_empty_shelf_only(settings: &Settings) -> Stack {
    let mut stack = wims_stack(settings);
    let mut rules = stack.rules.iter_mut();
    let rule = rules.find(|rule| rule.name == "BackordersRule").expect("it is declared");
    rule.pattern.0["detail"]["data"]["OldImage"] = serde_json::json!({"quantity": [0]});
    stack
}

fn drop_guard(machine: &mut Machine) {
    for state in &mut machine.states {
        match &mut state.kind {
            StateKind::Task { task: Task::Transact(task), .. }
                if task.function == fns::function("reserve-stock") =>
            {
                task.guard = Condition::Exists;
            }
            StateKind::Parallel { branches } => branches.iter_mut().for_each(drop_guard),
            StateKind::Task { .. }
            | StateKind::Wait { .. }
            | StateKind::Succeed
            | StateKind::Fail { .. } => {}
        }
    }
}

/// Charges as soon as the message comes, whatever became of the stock.
fn charge_before_reserved(input: &DeliveryInput<'_>) -> Delivery {
    let order_id = input.message.str("orderId").unwrap_or("");
    let order = input.reads.find("orderId", order_id);
    let pending = order.filter(|order| has_payment(order, PaymentStatus::Pending));
    let Some(order) = pending else { return fns::payments::prepare_payment(input) };
    let updates = moved(order, Move::Payment(PaymentStatus::Processing), input.now_ms);
    let mut write = unguarded(order, updates);
    write.condition = Some(Condition::is("paymentStatus", PaymentStatus::Pending.as_str()));
    Delivery::Call { writes: vec![write], key: charge_key(order), body: request(order) }
}

/// Takes an unknown outcome for a failed one: charges once more, as another charge.
fn charge_anew(input: &DeliveryInput<'_>) -> Delivery {
    let order_id = input.message.str("orderId").unwrap_or("");
    let order = input.reads.find("orderId", order_id);
    let unknown = order.filter(|order| has_payment(order, PaymentStatus::Unknown));
    let Some(order) = unknown else { return fns::payments::prepare_payment(input) };
    let charge = order.int("charge").unwrap_or(1) + 1;
    let write = unguarded(order, vec![Update::SetInt("charge", charge)]);
    let body = request(order);
    Delivery::Call { writes: vec![write], key: format!("{order_id}-{charge}"), body }
}

fn has_payment(order: &Doc, status: PaymentStatus) -> bool {
    order.str("paymentStatus") == Some(status.as_str())
}

fn request(order: &Doc) -> Doc {
    let text = |name| Field::Str(order.str(name).unwrap_or(""));
    let number = |name| Field::Int(order.int(name).unwrap_or(0));
    Doc::object(&[
        ("amount", number("amount")),
        ("currency", text("currency")),
        ("customerId", text("customerId")),
        ("orderId", text("orderId")),
        ("quantity", number("quantity")),
    ])
}

fn unguarded(order: &Doc, updates: Vec<Update>) -> Write {
    Write {
        pk: order.str("pk").unwrap_or("").into(),
        sk: order.str("sk").unwrap_or("").into(),
        condition: None,
        action: Action::Update(updates),
    }
}
