//! The whole system on one screen: the article's `wims-stack.ts`.
//!
//! Promise: what is declared here is what runs; there is no second path. Each part is a construct
//! in a file of its own, named as in the article, and gets what it needs passed in here.

use wims_stack::table::{Closed, Index, SORT_KEY, Table};
use wims_stack::{BusRef, Condition, QueueRef, Stack, TableRef, TopicRef};

use crate::constructs::backorders::{Backorders, BackordersProps};
use crate::constructs::cancellations::{Cancellations, CancellationsProps, DECLINE_GRACE_MS};
use crate::constructs::cdc::{Cdc, CdcProps};
use crate::constructs::customer_notices::{CustomerNotices, CustomerNoticesProps};
use crate::constructs::fulfillment::{Fulfillment, FulfillmentProps};
use crate::constructs::inventory_monitor::{InventoryMonitor, InventoryMonitorProps};
use crate::constructs::observability::{LOG_RETENTION_HOURS, Observability, ObservabilityProps};
use crate::constructs::orders_api::{OrdersApi, OrdersApiProps};
use crate::constructs::orders_processor::{OrdersProcessor, OrdersProcessorProps};
use crate::constructs::payments_api::{PaymentsApi, PaymentsPace};
use crate::constructs::payments_queue::{PaymentsQueue, PaymentsQueueProps};
use crate::domain::{BACKORDER, CONTACT, CONTACT_OF, CUSTOMER, INVENTORY, OrderStatus, TABLE};
use crate::fns::function;

/// What differs between two installations.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the team reads its mail.
    pub team_email: String,
    /// What the payments API can take.
    pub payments: PaymentsPace,
    /// How long the stock of an order is kept whose payment was declined.
    pub decline_grace_ms: u64,
    /// How long the observer log can be read, and the journal is kept for it.
    pub log_retention_hours: u64,
    /// Whether customers are mailed what becomes of their orders.
    pub customer_mails: bool,
}

impl Default for Settings {
    /// The article's team and payments.
    fn default() -> Settings {
        Settings {
            team_email: "theteam@ourcompany.com".into(),
            payments: PaymentsPace::default(),
            decline_grace_ms: DECLINE_GRACE_MS,
            log_retention_hours: LOG_RETENTION_HOURS,
            customer_mails: true,
        }
    }
}

/// Declares the system.
pub fn wims_stack(settings: &Settings) -> Stack {
    let mut stack = Stack::new("wims");
    let table = wims_table(&mut stack);
    let bus = BusRef::new("default");
    stack.buses.push(bus.clone());

    let team_email = settings.team_email.clone();
    let log_retention_hours = settings.log_retention_hours;
    let observability = Observability::new(
        &mut stack,
        ObservabilityProps { bus: bus.clone(), team_email, log_retention_hours },
    );
    let dead_letters = observability.dead_letters.clone();
    let alarm = observability.alarm.clone();
    Cdc::new(&mut stack, CdcProps { table: table.clone(), bus: bus.clone(), alarm: alarm.clone() });
    let team_email = settings.team_email.clone();
    InventoryMonitor::new(
        &mut stack,
        InventoryMonitorProps { bus: bus.clone(), team_email, dead_letters: dead_letters.clone() },
    );
    let shared = Shared { table: table.clone(), bus: bus.clone(), alarm, dead_letters };
    let queue = payments(&mut stack, settings, &shared);
    let dead_letters = shared.dead_letters;
    OrdersApi::new(&mut stack, OrdersApiProps { table: table.clone() });
    OrdersProcessor::new(
        &mut stack,
        OrdersProcessorProps {
            bus: bus.clone(),
            queue: queue.clone(),
            table: table.clone(),
            dead_letters: dead_letters.clone(),
        },
    );
    Backorders::new(
        &mut stack,
        BackordersProps {
            bus: bus.clone(),
            table: table.clone(),
            queue,
            dead_letters: dead_letters.clone(),
            // Strict: nobody is overtaken.
            fill: function("fill-backorders"),
        },
    );
    Fulfillment::new(
        &mut stack,
        FulfillmentProps {
            bus: bus.clone(),
            table: table.clone(),
            dead_letters: dead_letters.clone(),
        },
    );
    let notice = if settings.customer_mails { "notify-customer" } else { "forget-customer" };
    CustomerNotices::new(
        &mut stack,
        CustomerNoticesProps { bus, table, notice: function(notice), dead_letters },
    );
    stack
}

/// What constructs of money are given.
struct Shared {
    table: TableRef,
    bus: BusRef,
    alarm: TopicRef,
    dead_letters: QueueRef,
}

/// What charges and gives back, and the queue where payments wait.
fn payments(stack: &mut Stack, settings: &Settings, shared: &Shared) -> QueueRef {
    let payments_api = PaymentsApi::new(stack, settings.payments.clone());
    let payments_queue = PaymentsQueue::new(
        stack,
        PaymentsQueueProps {
            api: payments_api.api.clone(),
            rate_per_second: payments_api.pace.payments_per_second(),
            burst: payments_api.pace.burst,
            in_flight_max: payments_api.pace.in_flight_max,
            timeout_ms: payments_api.pace.timeout_ms,
            table: shared.table.clone(),
            alarm: shared.alarm.clone(),
        },
    );
    Cancellations::new(
        stack,
        CancellationsProps {
            bus: shared.bus.clone(),
            api: payments_api.api,
            refunds_per_second: payments_api.pace.refunds_per_second(),
            timeout_ms: payments_api.pace.timeout_ms,
            table: shared.table.clone(),
            payments: payments_queue.queue.clone(),
            decline_grace_ms: settings.decline_grace_ms,
            alarm: shared.alarm.clone(),
            dead_letters: shared.dead_letters.clone(),
        },
    );
    payments_queue.queue
}

fn wims_table(stack: &mut Stack) -> TableRef {
    let name = TableRef::new(TABLE);
    let index = |attribute: &str, prefix: &str, unique| Index {
        attribute: attribute.into(),
        prefix: prefix.into(),
        unique,
        ordered: false,
    };
    let queues = Index { ordered: true, ..index(SORT_KEY, BACKORDER, false) };
    let ends = [OrderStatus::Shipped.as_str(), OrderStatus::Canceled.as_str()];
    let is_closed = Condition::is_one_of("status", &ends);
    stack.tables.push(Table {
        name: name.clone(),
        unstreamed: vec![BACKORDER.into(), CONTACT.into()],
        indexes: vec![
            index("orderId", CUSTOMER, true),
            index("status", CUSTOMER, false),
            index("customerId", CUSTOMER, false),
            index("catalog", INVENTORY, false),
            index(CONTACT_OF, CONTACT, false),
            queues,
        ],
        closed: vec![Closed { prefix: CUSTOMER.into(), when: is_closed }],
    });
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> Stack {
        stack_that_keeps(LOG_RETENTION_HOURS)
    }

    fn stack_that_keeps(log_retention_hours: u64) -> Stack {
        wims_stack(&Settings { log_retention_hours, ..Settings::default() })
    }

    #[test]
    fn the_log_is_kept_as_long_as_the_setting_says() {
        assert_eq!(stack_that_keeps(3).logs[0].retention_ms, 10_800_000);
    }

    #[test]
    fn payments_and_refunds_together_keep_the_declared_rate() {
        let stack = stack();
        let rate = |pipe: &wims_stack::Pipe| match &pipe.target {
            wims_stack::PipeTarget::Api(api) => api.rate_per_second,
            wims_stack::PipeTarget::Bus { .. } => 0.0,
        };
        let rates: Vec<f64> = stack.pipes.iter().map(rate).filter(|rate| *rate > 0.0).collect();
        assert_eq!(rates.len(), 2);
        let declared = PaymentsPace::default().rate_per_second;
        assert!((rates.iter().sum::<f64>() - declared).abs() < 1e-9, "{rates:?}");
    }

    #[test]
    fn the_stack_is_data_and_goes_to_json_and_back_unchanged() {
        let text = serde_json::to_string_pretty(&stack()).expect("a stack is JSON");
        let back: Stack = serde_json::from_str(&text).expect("and comes back");
        assert_eq!(back, stack());
    }
}
