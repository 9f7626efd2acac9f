//! `wims graph` and `wims check`: the stack drawn and judged without running it.
//!
//! Promise: it is the stack `serve` would run, built in or a declaration, and all that is wrong
//! with it is told at once, the worst first; `serve` refuses it in the same words. It deliberately
//! touches nothing but the file of the declaration, and asks no server.

use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use wims_runtime::driver::check_mail_address;
use wims_stack::check::{self, Finding, FunctionNames, Published, Severity};
use wims_stack::{
    ApiRef, Doc, EventView, Field, HttpRoute, Node, Route, Rule, Stack, Table, TargetRef, TopicRef,
    draw,
};

use crate::cli::{EXIT_CONFIG, Failure, say};
use crate::constructs::payments_api::PAYMENTS_API;
use crate::domain::{
    BACKORDER, BUSINESS_SOURCE, CDC_EVENT, CONTACT, CONTACT_OF, CUSTOMER, INVENTORY, PROJECT_SOURCE,
};
use crate::fns;
use crate::fns::cdc_enrichment::BUSINESS_EVENTS;
use crate::stack::{Settings, wims_stack};

/// What `graph` takes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    wims graph  # as text\n  \
    wims graph --format mermaid > stack.mmd  # for a page that draws Mermaid\n  \
    wims graph --format declaration > stack.json  # to edit, check and serve")]
pub struct GraphArgs {
    /// How it is drawn; `declaration` is the stack itself as data
    #[arg(long, env = "WIMS_GRAPH_FORMAT", value_enum, default_value_t = Format::Text)]
    format: Format,
    /// A declaration to draw instead of the built-in stack
    #[arg(long, env = "WIMS_STACK")]
    stack: Option<PathBuf>,
}

/// What `check` takes.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    wims check  # the built-in stack\n  \
    wims check --stack stack.json  # an edited one, before it is served\n  \
    wims check --json | jq '.[].message'  # what was found, for a program\n\n\
    Exits with 78 when it finds an error.")]
pub struct CheckArgs {
    /// A declaration to check instead of the built-in stack
    #[arg(long, env = "WIMS_STACK")]
    stack: Option<PathBuf>,
    /// Findings as JSON
    #[arg(long, env = "WIMS_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Mermaid,
    Json,
    Declaration,
}

/// Draws the stack.
///
/// # Errors
/// When a given declaration cannot be read.
pub fn graph(args: &GraphArgs) -> Result<(), Failure> {
    let stack = chosen(args.stack.as_deref())?;
    say(match args.format {
        Format::Text => draw::text(&stack),
        Format::Mermaid => draw::mermaid(&stack),
        Format::Json => draw::json(&stack),
        Format::Declaration => serde_json::to_string_pretty(&stack).expect("a stack is plain data"),
    }
    .trim_end());
    Ok(())
}

/// Judges the stack.
///
/// # Errors
/// When a given declaration cannot be read, or has errors.
pub fn check(args: &CheckArgs) -> Result<(), Failure> {
    let stack = chosen(args.stack.as_deref())?;
    let findings = findings(&stack);
    if args.json {
        say(&serde_json::to_string_pretty(&findings).expect("findings are plain data"));
    } else {
        findings.iter().for_each(|finding| say(&finding.to_string()));
    }
    let errors = findings.iter().filter(|f| f.severity == Severity::Error).count();
    if errors == 0 {
        return Ok(());
    }
    Err(Failure::new(EXIT_CONFIG, format!("the stack has {errors} errors")))
}

fn chosen(path: Option<&Path>) -> Result<Stack, Failure> {
    path.map_or_else(|| Ok(built_in()), read)
}

fn built_in() -> Stack {
    wims_stack(&Settings::default())
}

/// Everything there is to say about a stack that is to run here, the worst first.
fn findings(stack: &Stack) -> Vec<Finding> {
    let mut findings = check::check(stack, &function_names());
    findings.extend(unserved(stack));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// What `serve` cannot honour, however sound the stack is.
fn unserved(stack: &Stack) -> Vec<Finding> {
    let error = |resource, message| Finding { severity: Severity::Error, resource, message };
    let others = stack.apis.iter().map(ApiRef::name).filter(|name| *name != PAYMENTS_API);
    let message = format!("serve has no address for it, only for {PAYMENTS_API}");
    let others = others.map(|name| error(format!("api/{name}"), message.clone()));
    let served = built_in().routes;
    let routes = stack.routes.iter().filter_map(|route| {
        Some(error(format!("route/{}", route.name), unserved_route(route, &served)?))
    });
    let subscriptions = stack.topics.iter().flat_map(|topic| {
        topic.subscriptions.iter().map(|subscription| (topic.name.name(), &subscription.email))
    });
    let mails = subscriptions.filter_map(|(topic, email)| {
        let why = check_mail_address(email).err()?;
        Some(error(format!("topic/{topic}"), format!("mails {email}: {why}")))
    });
    let tables = stack.tables.iter().flat_map(|table| {
        let name = format!("table/{}", table.name.name());
        let lacks = exposed_contacts(table).into_iter().chain(lost_queues(table));
        lacks.map(move |why| error(name.clone(), why))
    });
    let left = left_contacts(stack).map(|why| error("route/ship-order".to_owned(), why));
    others.chain(routes).chain(mails).chain(tables).chain(left).collect()
}

/// Why what is personal of an order with an address would stay when it is shipped: the last notice
/// of an order deletes it.
fn left_contacts(stack: &Stack) -> Option<String> {
    let ships = stack.routes.iter().any(|route| route.function.name() == "ship-order");
    let order = Doc::object(&[("hasContact", Field::Bool(true))]);
    let shipped = EventView {
        source: BUSINESS_SOURCE,
        detail_type: "order.shipped",
        detail: Node::View(order.view()),
    };
    let ends = |topic: &TopicRef| {
        let topic = stack.topics.iter().find(|declared| declared.name == *topic);
        let mut notices = topic.into_iter().flat_map(|topic| &topic.notices);
        notices.any(|notices| notices.outcome.name() == "customer-notified")
    };
    let leads = |rule: &Rule| {
        let hears = rule.pattern.compile().is_ok_and(|pattern| pattern.matches(&shipped));
        hears && rule.targets.iter().any(|t| matches!(&t.to, TargetRef::Topic(to) if ends(to)))
    };
    (ships && !stack.rules.iter().any(leads)).then(|| {
        format!(
            "no rule hears order.shipped for a topic with notices that end in customer-notified: \
             {CONTACT} would stay behind when an order is shipped"
        )
    })
}

/// Why what is personal of an order would get into events, or would not be found to be erased.
fn exposed_contacts(table: &Table) -> Vec<String> {
    let is_unstreamed = table.unstreamed.iter().any(|prefix| CONTACT.starts_with(prefix.as_str()));
    let is_found = table.indexes.iter().any(|index| {
        index.attribute == CONTACT_OF && !index.unique && CONTACT.starts_with(index.prefix.as_str())
    });
    let streamed = format!("{CONTACT} is not unstreamed: what is personal would be in events");
    let unfound = format!("{CONTACT} has no index {CONTACT_OF}: nothing would be erased");
    let checks = [(is_unstreamed, streamed), (is_found, unfound)];
    checks.into_iter().filter(|(holds, _)| !holds).map(|(_, why)| why).collect()
}

/// Why those who wait for stock would not be found in their order.
fn lost_queues(table: &Table) -> Option<String> {
    let mut indexes = table.indexes.iter();
    let is_ordered =
        indexes.any(|index| index.ordered && BACKORDER.starts_with(index.prefix.as_str()));
    let why = "has no ordered index: orders that wait for stock would never be filled";
    (!is_ordered).then(|| format!("{BACKORDER} {why}"))
}

/// Why a route is none of those that `serve` has; the router is part of the program.
fn unserved_route(route: &Route, served: &[Route]) -> Option<String> {
    let told = |http: &Option<HttpRoute>| {
        http.as_ref().map_or_else(|| "an internal route".to_owned(), HttpRoute::to_string)
    };
    match served.iter().find(|served| served.name == route.name) {
        None => {
            let names: Vec<&str> = served.iter().map(|served| served.name.as_str()).collect();
            Some(format!("serve has no such route; it has {}", names.join(", ")))
        }
        Some(served) if served.http == route.http => None,
        Some(served) => {
            let (has, asked) = (told(&served.http), told(&route.http));
            Some(format!("serve has it as {has}, not as {asked}"))
        }
    }
}

/// Reads a declaration that is to run; its warnings are logged.
///
/// # Errors
/// When it cannot be read, or has errors: all of them are in the message.
pub fn sound(path: &Path) -> Result<Stack, Failure> {
    let stack = read(path)?;
    let mut errors = Vec::new();
    for finding in findings(&stack) {
        match finding.severity {
            Severity::Error => errors.push(finding.to_string()),
            Severity::Warning => tracing::warn!(%finding, "the stack may not do what is meant"),
            Severity::Note => {}
        }
    }
    if errors.is_empty() {
        return Ok(stack);
    }
    let message = format!("the stack {} cannot run:\n{}", path.display(), errors.join("\n"));
    Err(Failure::new(EXIT_CONFIG, message))
}

fn read(path: &Path) -> Result<Stack, Failure> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(EXIT_CONFIG, format!("cannot read {name}: {error}")))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(EXIT_CONFIG, format!("{name} is no stack: {error}")))
}

/// What the functions of `fns` are, and what they publish.
pub fn function_names() -> FunctionNames {
    let names = fns::kinds();
    let published = |source: &str, detail_type: &str, about: Option<&str>| Published {
        function: "cdc-enrichment".into(),
        source: source.into(),
        detail_type: detail_type.into(),
        about: about.map(str::to_owned),
    };
    let changes =
        [CUSTOMER, INVENTORY].map(|about| published(PROJECT_SOURCE, CDC_EVENT, Some(about)));
    let business = BUSINESS_EVENTS.map(|event| published(BUSINESS_SOURCE, event, None));
    FunctionNames { names, publishes: changes.into_iter().chain(business).collect() }
}
