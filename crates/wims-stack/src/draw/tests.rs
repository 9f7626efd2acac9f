//! Tests of the pictures: one stack drawn in each way, then what is drawn otherwise.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

const STACK: &str = r#"{
    "name": "wims",
    "tables": [{"name": "WIMS", "unstreamed": [], "indexes": [], "closed": []}],
    "buses": ["default"],
    "routes": [{"name": "create-order", "http": {"method": "POST", "path": "/orders"},
        "function": "create-order", "table": "WIMS"},
        {"name": "seed-inventory", "function": "seed-inventory", "table": "WIMS"}],
    "pipes": [
        {"name": "CDCStreamPipe",
            "source": {"Stream": {"table": "WIMS", "batch_size": 100,
                "dead_letters": "events-dlq"}},
            "target": {"Bus": {"bus": "default", "enrichment": "cdc-enrichment"}}},
        {"name": "PaymentsPipe",
            "source": {"Queue": "payments-queue"},
            "target": {"Api": {"api": "PaymentsApi", "path": "/payments", "table": "WIMS",
                "prepare": "payment-prepare", "outcome": "payment-outcome",
                "rate_per_second": 5.0, "burst": 5, "in_flight_max": 10,
                "timeout_ms": 10000, "alarm": "Alarm"}}}],
    "rules": [{"name": "Orders", "bus": "default", "pattern": {"source": ["freeCodeCamp"]},
        "targets": [
            {"to": {"Workflow": "orders"}, "dead_letters": "events-dlq",
                "retry": {"attempts_max": 185, "age_max_s": 86400}},
            {"to": {"Log": "observer"}, "dead_letters": "events-dlq",
                "retry": {"attempts_max": 185, "age_max_s": 86400}}]}],
    "workflows": [{"name": "orders", "machine": {"states": [
        {"name": "Both", "kind": {"Parallel": {"branches": [
            {"states": [
                {"name": "ReserveStock", "kind": {"Task": {"task": {"Transact": {
                    "table": "WIMS", "function": "reserve-stock",
                    "pk": {"Path": "$.detail.data.pk"}, "sk": {"Path": "$.detail.data.sk"},
                    "guard": {"In": ["inventoryStatus", ["UNRESERVED"]]},
                    "becomes": {"attribute": "inventoryStatus", "values": ["RESERVED"]}}},
                    "retry": [], "catch": [{"errors": ["States.ALL"], "next": "Failed"}]}}},
                {"name": "Reserved", "kind": "Succeed"},
                {"name": "Failed", "kind": {"Fail": {"error": "Failed"}}}]},
            {"states": [{"name": "EnqueuePayment", "kind": {"Task": {
                "task": {"SendMessage": {"queue": "payments-queue",
                    "message": {"Path": "$.detail.data.pk"}}},
                "retry": [], "catch": []}}}]}]}}}]}}],
    "queues": [
        {"name": "payments-queue", "visibility_timeout_ms": 30000,
            "redrive": {"dead_letters": "payments-dlq", "receive_count_max": 10}, "alarm": null},
        {"name": "payments-dlq", "visibility_timeout_ms": 30000, "redrive": null,
            "alarm": "Alarm"},
        {"name": "events-dlq", "visibility_timeout_ms": 30000, "redrive": null, "alarm": null},
        {"name": "alarm-mails", "visibility_timeout_ms": 30000, "redrive": null, "alarm": null}],
    "topics": [{"name": "Alarm", "subscriptions": [
        {"queue": "alarm-mails", "email": "team@example.org", "mail": "alarm-mail",
            "limit": {"OncePerSubject":
                {"subject": {"Path": "$.detail.sku"}, "window_ms": 3600000}}}]}],
    "logs": [{"name": "observer", "retention_ms": 604800000}],
    "apis": ["PaymentsApi"]
}"#;

fn stack() -> Stack {
    serde_json::from_str(STACK).expect("a stack")
}

/// The ids of the nodes a Mermaid graph declares, and the ends of its edges.
fn read_mermaid(graph: &str) -> (BTreeSet<String>, Vec<(String, String)>) {
    let id = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        text[..end.unwrap_or(text.len())].to_string()
    };
    let (mut nodes, mut edges) = (BTreeSet::new(), Vec::new());
    for line in graph.lines().skip(1).map(str::trim) {
        match line.split_once(" -->").or_else(|| line.split_once(" -.->")) {
            Some((from, rest)) => {
                let to = rest.rsplit(' ').next().expect("an edge leads somewhere");
                edges.push((from.to_string(), to.to_string()));
            }
            None => assert!(nodes.insert(id(line)), "declared twice: {line}"),
        }
    }
    (nodes, edges)
}

#[test]
fn the_text_reads_as_the_way_of_an_order() {
    let expected = r#"
POST /orders  create-order -> table WIMS
route seed-inventory -> table WIMS
table WIMS
  ~> pipe CDCStreamPipe (batches of 100, dead letters: events-dlq)
    -> bus default (enrichment cdc-enrichment)
bus default
  rule Orders  {"source":["freeCodeCamp"]}
    -> workflow orders (retry 185 in 24 h, dead letters: events-dlq)
    -> log observer (retry 185 in 24 h, dead letters: events-dlq)
workflow orders: Parallel(ReserveStock | EnqueuePayment)
  ReserveStock -> table WIMS
  EnqueuePayment -> queue payments-queue
queue payments-queue (hidden 30 s, after 10 receives: payments-dlq)
  ~> pipe PaymentsPipe (alarm: Alarm)
    -> api PaymentsApi (POST /payments, 5/s, burst 5) -> table WIMS (outcome payment-outcome)
queue payments-dlq (hidden 30 s, alarm: Alarm)
queue events-dlq (hidden 30 s)
queue alarm-mails (hidden 30 s)
  -> mail team@example.org (alarm-mail, at most one a subject in 1 h)
topic Alarm
  -> queue alarm-mails
log observer (kept 7 d)
"#;
    assert_eq!(text(&stack()), expected.trim_start());
}

#[test]
fn every_edge_of_a_mermaid_graph_names_declared_nodes() {
    let graph = mermaid(&stack());
    assert!(graph.starts_with("flowchart LR\n"));
    let (nodes, edges) = read_mermaid(&graph);
    for (from, to) in &edges {
        assert!(nodes.contains(from) && nodes.contains(to), "{from} to {to} in\n{graph}");
    }
    assert!(edges.contains(&("rule_Orders".into(), "workflow_orders".into())));
}

#[test]
fn the_pictures_show_the_same_nodes_and_edges() {
    let (nodes, edges) = read_mermaid(&mermaid(&stack()));
    let graph: Value = serde_json::from_str(&json(&stack())).expect("JSON");
    let text_of = |value: &Value| value.as_str().expect("a text").to_string();
    let items = |name: &str| graph[name].as_array().expect("a list").clone();
    let ids: BTreeSet<String> = items("nodes").iter().map(|n| text_of(&n["id"])).collect();
    let ends = |edge: &Value| (text_of(&edge["from"]), text_of(&edge["to"]));
    assert_eq!(ids, nodes);
    assert_eq!(items("edges").iter().map(ends).collect::<Vec<_>>(), edges);
    let picture = text(&stack());
    for node in items("nodes") {
        assert!(picture.contains(&text_of(&node["name"])), "{node} is missing in\n{picture}");
    }
}

#[test]
fn every_edge_says_what_it_promises() {
    let graph: Value = serde_json::from_str(&json(&stack())).expect("JSON");
    let edges = graph["edges"].as_array().expect("a list");
    let promise = |from: &str, to: &str| {
        let found = edges.iter().find(|edge| edge["from"] == from && edge["to"] == to);
        found.expect("such an edge")["promise"].clone()
    };
    assert_eq!(promise("route_create_order", "table_WIMS"), "durable before the reply");
    let stream = promise("table_WIMS", "pipe_CDCStreamPipe");
    assert_eq!(stream, "in order, exactly once in effect");
    assert_eq!(promise("bus_default", "rule_Orders"), "at least once, unordered");
    let paced = "paced, at least once, idempotent by key";
    assert_eq!(promise("pipe_PaymentsPipe", "api_PaymentsApi"), paced);
    assert_eq!(promise("queue_payments_dlq", "topic_Alarm"), "at least once, unordered");
}

#[test]
fn an_internal_route_is_drawn_without_method_and_path() {
    let graph = mermaid(&stack());
    assert!(graph.contains("    route_create_order(\"POST /orders\")\n"), "{graph}");
    assert!(graph.contains("    route_seed_inventory(\"route seed-inventory\")\n"), "{graph}");
}

#[test]
fn a_queue_tells_its_alarm_on_a_dotted_arrow() {
    let graph = mermaid(&stack());
    assert!(graph.contains("    queue_payments_dlq -.->|\"alarm\"| topic_Alarm\n"), "{graph}");
    assert!(!graph.contains("queue_events_dlq -.->"), "{graph}");
}

#[test]
fn a_digest_says_how_often_it_comes() {
    let mut stack = stack();
    stack.topics[0].subscriptions[0].limit = MailLimit::Digest { window_ms: 900_000 };
    let mail = "  -> mail team@example.org (alarm-mail, the first at once, then a digest every";
    assert!(text(&stack).contains(&format!("{mail} 15 min)\n")), "{}", text(&stack));
}

#[test]
fn a_new_pipe_starts_at_the_horizon_unless_declared_otherwise_and_that_is_drawn() {
    let mut stack = stack();
    let PipeSource::Stream { start, .. } = &mut stack.pipes[0].source else {
        panic!("the first pipe reads the stream");
    };
    assert_eq!(*start, StreamStart::Horizon);
    *start = StreamStart::Now;
    let pipe = "  ~> pipe CDCStreamPipe (batches of 100, from now on, dead letters: events-dlq)\n";
    assert!(text(&stack).contains(pipe), "{}", text(&stack));
    let declared = serde_json::to_string(&stack).expect("a stack is JSON");
    assert!(declared.contains(r#""batch_size":100,"start":"Now""#), "{declared}");
    assert_eq!(serde_json::from_str::<Stack>(&declared).expect("and comes back"), stack);
}

#[test]
fn what_would_break_a_mermaid_label_is_escaped() {
    let mut stack = Stack::new("wims");
    stack.apis.push(crate::stack::ApiRef::new("say \"#1\"\n<b>"));
    let line = "    api_say___1___b_((\"api say #quot;#35;1#quot; #lt;b#gt;\"))\n";
    assert_eq!(mermaid(&stack), format!("flowchart LR\n{line}"));
}

#[test]
fn names_that_look_alike_keep_ids_of_their_own() {
    let mut stack = Stack::new("wims");
    stack.apis.extend(["a-b", "a_b", "a b"].map(crate::stack::ApiRef::new));
    let (nodes, _) = read_mermaid(&mermaid(&stack));
    assert_eq!(nodes.into_iter().collect::<Vec<_>>(), ["api_a_b", "api_a_b_2", "api_a_b_3"]);
}

#[test]
fn what_nothing_declares_is_drawn_and_marked() {
    let mut stack = stack();
    stack.workflows.clear();
    let picture = text(&stack);
    assert!(picture.contains("    -> workflow orders [not declared] (retry"), "{picture}");
    assert!(picture.contains("\nworkflow orders [not declared]\n"), "{picture}");
}

#[test]
fn a_detour_is_shown_where_a_failed_task_has_work_left() {
    let mut stack = stack();
    let StateKind::Parallel { branches } = &stack.workflows[0].machine.states[0].kind else {
        panic!("the workflow starts with both branches");
    };
    let (mut machine, pay) = (branches[0].clone(), branches[1].states[0].kind.clone());
    machine.states[2].kind = pay;
    stack.workflows[0].machine = machine;
    let line = "workflow orders: ReserveStock (else Failed); Failed\n";
    assert!(text(&stack).contains(line), "{}", text(&stack));
}

#[test]
fn times_read_in_their_largest_whole_unit() {
    let times = [500, 30_000, 90_000, 900_000, 86_400_000, 604_800_000, 0];
    let words = ["500 ms", "30 s", "90 s", "15 min", "24 h", "7 d", "0 ms"];
    assert_eq!(times.map(duration), words);
}
