//! CDC: change data capture. Every change of the table becomes an event on the bus.
//!
//! Article section "CDC"; pattern: asynchronous bus. We update the table and let the pipe tell:
//! nobody calls `sendEvent`, so a bulk correction is told too. The pipe starts at the stream's
//! horizon, where the article's starts at "latest".

use wims_stack::{
    BusRef, Pipe, PipeSource, PipeTarget, Queue, QueueRef, Stack, StreamStart, TableRef, TopicRef,
};

use crate::fns::function;

/// The most records a batch has; the article's 10, larger because a turn hands over what it has.
const BATCH_SIZE: usize = 100;

/// What it needs.
pub struct CdcProps {
    /// The table to listen to.
    pub table: TableRef,
    /// The bus to tell.
    pub bus: BusRef,
    /// Told of poison records.
    pub alarm: TopicRef,
}

/// The construct.
pub struct Cdc;

impl Cdc {
    /// Declares the pipe and its dead letters.
    pub fn new(stack: &mut Stack, props: CdcProps) -> Cdc {
        let dead_letters = QueueRef::new("cdc-dlq");
        stack.queues.push(Queue {
            name: dead_letters.clone(),
            visibility_timeout_ms: 30_000,
            redrive: None,
            alarm: Some(props.alarm),
        });
        stack.pipes.push(Pipe {
            name: "CDCStreamPipe".into(),
            source: PipeSource::Stream {
                table: props.table,
                batch_size: BATCH_SIZE,
                start: StreamStart::Horizon,
                dead_letters,
            },
            target: PipeTarget::Bus { bus: props.bus, enrichment: function("cdc-enrichment") },
        });
        Cdc
    }
}
