//! Tests of event patterns: AWS's recorded decisions, then every operator and the index.

use serde_json::json;

use super::index::Bucket;
use super::*;
use crate::doc::Doc;

/// The recorded cases that use no operator refused as not supported yet; more may come.
const RECORDED_CASES_MIN: usize = 70;
/// Those of them that also run as they are, because the pattern reads only our envelope.
const RECORDED_CASES_UNWRAPPED_MIN: usize = 38;

#[derive(Deserialize)]
struct Case {
    name: String,
    event: Option<Value>,
    event_raw: Option<String>,
    pattern: Option<Value>,
    pattern_raw: Option<String>,
    expect: String,
    error_message: Option<String>,
}

impl Case {
    fn event(&self) -> Value {
        parsed(self.event.as_ref(), self.event_raw.as_deref())
    }

    fn pattern(&self) -> Value {
        parsed(self.pattern.as_ref(), self.pattern_raw.as_deref())
    }

    fn expected(&self) -> &str {
        self.error_message.as_deref().unwrap_or(&self.expect)
    }
}

fn parsed(value: Option<&Value>, raw: Option<&str>) -> Value {
    match (value, raw) {
        (Some(value), _) => value.clone(),
        (None, Some(raw)) => serde_json::from_str(raw).expect("a recorded text is JSON"),
        (None, None) => panic!("a recorded case has an event and a pattern"),
    }
}

/// `match`, `nomatch`, or AWS's error text; `None` when an operator is not supported yet.
fn decision(pattern: Value, event: &EventView<'_>) -> Option<String> {
    match Pattern(pattern).compile() {
        Ok(compiled) if compiled.matches(event) => Some("match".into()),
        Ok(_) => Some("nomatch".into()),
        Err(error @ PatternError::Invalid(_)) => Some(error.to_string()),
        Err(PatternError::NotYet(_)) => None,
    }
}

/// The recorded event in our envelope, if the pattern reads nothing else of it.
fn unwrapped<'a>(event: &'a Doc, pattern: &Value) -> Option<EventView<'a>> {
    let ours = ["source", "detail-type", "detail"];
    if !pattern.as_object()?.keys().all(|name| ours.contains(&name.as_str())) {
        return None;
    }
    Some(EventView {
        source: event.str("source")?,
        detail_type: event.str("detail-type")?,
        detail: event.get("detail").map_or(Node::Str(""), Node::from),
    })
}

#[test]
fn patterns_decide_as_recorded_on_aws() {
    let text = include_str!("../../tests/data/event_patterns.json");
    let cases: Vec<Case> = serde_json::from_str(text).expect("the recorded cases are JSON");
    let (mut ran, mut ran_unwrapped) = (0, 0);
    for case in &cases {
        let (event, pattern) = (json::to_doc(&case.event()).expect("fits"), case.pattern());
        // The whole recorded event as a detail: most patterns read fields our envelope lacks.
        let wrapped = EventView { source: "", detail_type: "", detail: event.view().into() };
        let Some(decided) = decision(json!({ "detail": pattern }), &wrapped) else { continue };
        assert_eq!(decided, case.expected(), "{}", case.name);
        ran += 1;
        if let Some(view) = unwrapped(&event, &pattern) {
            assert_eq!(decision(pattern, &view).as_deref(), Some(case.expected()), "{}", case.name);
            ran_unwrapped += 1;
        }
    }
    assert!(ran >= RECORDED_CASES_MIN, "only {ran} of {} cases ran", cases.len());
    assert!(ran_unwrapped >= RECORDED_CASES_UNWRAPPED_MIN, "only {ran_unwrapped} ran as they are");
}

fn compiled(pattern: Value) -> CompiledPattern {
    Pattern(pattern).compile().expect("the pattern is valid")
}

fn doc(value: Value) -> Doc {
    json::to_doc(&value).expect("fits")
}

fn event(detail: Node<'_>) -> EventView<'_> {
    EventView { source: "freeCodeCamp", detail_type: "cdcEvent", detail }
}

/// Whether a pattern of the detail matches a detail.
fn matches(pattern: Value, detail: Value) -> bool {
    compiled(json!({ "detail": pattern })).matches(&event(doc(detail).view().into()))
}

fn refusal(pattern: Value) -> String {
    let text = Pattern(pattern).compile().expect_err("the pattern is refused").to_string();
    text.strip_prefix("Event pattern is not valid. Reason: ").map_or(text.clone(), String::from)
}

#[test]
fn exact_values_match_by_value_and_by_type() {
    for (wanted, found, expected) in [
        (json!(5), json!(5.0), true),
        (json!(100), json!(1e2), true),
        (json!(0), json!(-0.0), true),
        (json!(5), json!("5"), false),
        (json!("5"), json!(5), false),
        (json!(301.8), json!(301.8), true),
        (json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_993_i64), true),
        (json!("a"), json!("a"), true),
        (json!("a"), json!("A"), false),
        (json!(""), json!(""), true),
        (json!(true), json!(true), true),
        (json!(true), json!("true"), false),
        (json!(null), json!(null), true),
        (json!(null), json!("null"), false),
        (json!(null), json!({}), false),
    ] {
        let shown = format!("{wanted} for {found}");
        assert_eq!(matches(json!({"x": [wanted]}), json!({"x": found})), expected, "{shown}");
    }
    assert!(!matches(json!({"x": [null]}), json!({})));
    assert!(matches(json!({"x": ["b", 7]}), json!({"x": 7})));
    assert!(!matches(json!({"x": [1], "y": [2]}), json!({"x": 1, "y": 3})));
}

#[test]
fn prefix_matches_only_strings() {
    assert!(matches(json!({"x": [{"prefix": "ORD"}]}), json!({"x": "ORDER"})));
    assert!(matches(json!({"x": [{"prefix": ""}]}), json!({"x": ""})));
    assert!(!matches(json!({"x": [{"prefix": "1"}]}), json!({"x": 12})));
    assert!(!matches(json!({"x": [{"prefix": "a"}]}), json!({"x": "ba"})));
}

#[test]
fn numeric_bounds_are_exact_and_open_or_closed_as_written() {
    let holds =
        |terms: Value, x: Value| matches(json!({"x": [{"numeric": terms}]}), json!({"x": x}));
    assert!(holds(json!(["=", 5]), json!(5.0)));
    assert!(holds(json!([">", 0, "<=", 5]), json!(5)));
    assert!(!holds(json!([">", 0, "<=", 5]), json!(0)));
    assert!(holds(json!([">=", 0, "<", 5]), json!(0)));
    assert!(!holds(json!([">=", 0, "<", 5]), json!(5)));
    assert!(holds(json!(["<", 0.3]), json!(0.29)));
    assert!(!holds(json!([">", 0]), json!("1")));
    assert!(!holds(json!([">", 0]), json!(null)));
    // Beyond the precision of a double AWS compares by text only.
    assert!(holds(json!([">", 0]), json!(9_007_199_254_740_992_i64)));
    assert!(!holds(json!([">", 0]), json!(9_007_199_254_740_993_i64)));
}

#[test]
fn exists_asks_for_leaves() {
    let exists = |wanted: bool, detail: Value| matches(json!({"x": [{"exists": wanted}]}), detail);
    for leaf in [json!(null), json!(""), json!([null]), json!([{}, 1])] {
        assert!(exists(true, json!({"x": leaf})), "{leaf}");
        assert!(!exists(false, json!({"x": leaf})), "{leaf}");
    }
    for nothing in [json!({}), json!({"y": 1}), json!([]), json!([{"y": 1}])] {
        assert!(!exists(true, json!({"x": nothing})), "{nothing}");
        assert!(exists(false, json!({"x": nothing})), "{nothing}");
    }
    assert!(exists(false, json!({})));
    assert!(matches(json!({"x": {"y": [{"exists": false}]}}), json!({"x": "text"})));
    assert!(matches(json!({"x": [{"exists": false}], "x.y": [1]}), json!({"x": {"y": 1}})));
}

#[test]
fn anything_but_needs_a_leaf_that_is_none_of_the_values() {
    for (values, found, expected) in [
        (json!("a"), json!("b"), true),
        (json!("a"), json!("a"), false),
        (json!("a"), json!(1), true),
        (json!("a"), json!(null), true),
        (json!("a"), json!({}), false),
        (json!("a"), json!(["a", "b"]), true),
        (json!("a"), json!(["a", "a"]), false),
        (json!(["a", "b"]), json!("b"), false),
        (json!(1), json!("1"), true),
        (json!(1), json!(1.0), false),
        (json!([1, 2]), json!(3), true),
    ] {
        let shown = format!("anything but {values} for {found}");
        let pattern = json!({"x": [{"anything-but": values}]});
        assert_eq!(matches(pattern, json!({"x": found})), expected, "{shown}");
    }
    assert!(!matches(json!({"x": [{"anything-but": "a"}]}), json!({})));
}

#[test]
fn fields_may_not_be_satisfied_by_different_elements_of_one_list() {
    let both = json!({"lines": {"sku": ["a"], "count": [2]}});
    assert!(matches(both.clone(), json!({"lines": [{"sku": "b"}, {"sku": "a", "count": 2}]})));
    assert!(!matches(both.clone(), json!({"lines": [{"sku": "a", "count": 1}, {"count": 2}]})));
    assert!(matches(both, json!({"lines": [[{"sku": "x"}, {"sku": "a", "count": 2}]]})));
    let nested = json!({"a": {"b": {"x": [1], "y": [2]}}});
    assert!(!matches(nested.clone(), json!({"a": [{"b": [{"x": 1}]}, {"b": [{"y": 2}]}]})));
    assert!(matches(nested, json!({"a": [{"b": [{"x": 3}]}, {"b": [{"x": 1, "y": 2}]}]})));
    // Plain elements bind nothing.
    let two = json!({"tags": ["a", "b"], "more": ["c"]});
    assert!(matches(two, json!({"tags": ["x", "b"], "more": ["d", "c"]})));
}

#[test]
fn absence_is_judged_in_the_element_that_earlier_fields_chose() {
    let later = json!({"a": {"y": [1], "z": [{"exists": false}]}});
    assert!(matches(later.clone(), json!({"a": [{"z": 5}, {"y": 1}]})));
    assert!(!matches(later, json!({"a": [{"z": 5, "y": 1}, {}]})));
    let earlier = json!({"a": {"x": [{"exists": false}], "y": [1]}});
    assert!(!matches(earlier, json!({"a": [{"x": 5}, {"y": 1}]})));
}

#[test]
fn one_document_shown_at_two_places_has_two_lists() {
    let image = doc(json!({"lines": [{"status": "A"}, {"status": "B"}]}));
    let detail = Tree::Map(vec![("NewImage", image.clone().into()), ("OldImage", image.into())]);
    let pattern = compiled(json!({"detail": {
        "NewImage": {"lines": {"status": ["A"]}},
        "OldImage": {"lines": {"status": ["B"]}},
    }}));
    assert!(pattern.matches(&event(detail.node())));
}

#[test]
fn names_join_with_dots_on_both_sides() {
    let pattern = json!({"a": {"b": {"c": [1]}}});
    for detail in [json!({"a.b.c": 1}), json!({"a.b": {"c": 1}}), json!({"a": {"b.c": 1}})] {
        assert!(matches(pattern.clone(), detail.clone()), "{detail}");
    }
    assert!(matches(json!({"a.b": {"c": [1]}}), json!({"a": {"b": {"c": 1}}})));
    assert!(matches(pattern.clone(), json!({"a": {"b": {"c": 2}}, "a.b": [{"c": 1}]})));
    assert!(!matches(pattern, json!({"a.b": {"b": {"c": 1}}})));
    assert!(!matches(json!({"a": {"b": [{"exists": false}]}}), json!({"a.b": 1})));
    // Of two that join to one name, the last written counts.
    assert!(matches(json!({"a.b": [1], "a": {"b": [2]}}), json!({"a": {"b": 2}})));
}

#[test]
fn the_envelope_is_matched_like_the_detail() {
    let nothing = doc(json!({}));
    let event = event(nothing.view().into());
    for (pattern, expected) in [
        (json!({"source": ["freeCodeCamp"], "detail-type": [{"prefix": "cdc"}]}), true),
        (json!({"source": ["somebody"], "detail-type": ["cdcEvent"]}), false),
        (json!({"source": [{"anything-but": ["freeCodeCamp"]}]}), false),
        (json!({"replay-name": [{"exists": false}]}), true),
        (json!({"detail": [{"exists": true}]}), false),
        (json!({"source": {"name": ["freeCodeCamp"]}}), false),
    ] {
        assert_eq!(compiled(pattern.clone()).matches(&event), expected, "{pattern}");
    }
}

#[test]
fn refusals_use_the_words_of_aws() {
    let mixed = "Inside anything but list, either all values are number or string, mixed type is \
                 not supported";
    for (value, expected) in [
        (json!("x"), "\"x\" must be an object or an array"),
        (json!([]), "Empty arrays are not allowed"),
        (json!({}), "Empty objects are not allowed"),
        (json!([{}]), "Match expression name not found"),
        (json!([["a"]]), "Match value must be String, number, true, false, or null"),
        (json!([{"EXISTS": true}]), "Unrecognized match type EXISTS"),
        (json!([{"exists": 1}]), "exists match pattern must be either true or false."),
        (json!([{"prefix": "a", "exists": true}]), "Only one key allowed in match expression"),
        (json!([{"prefix": 1}]), "prefix match pattern must be a string"),
        (json!([{"prefix": {"suffix": "a"}}]), "Unsupported prefix pattern: suffix"),
        (json!([{"numeric": 10}]), "Value of numeric must be an array."),
        (json!([{"numeric": [5]}]), "Invalid member in numeric match: 5"),
        (json!([{"numeric": ["=", "5"]}]), "Value of equals must be numeric"),
        (json!([{"numeric": ["=", 5, 6]}]), "Too many elements in numeric expression"),
        (json!([{"numeric": ["!=", 5]}]), "Unrecognized numeric range operator: !="),
        (json!([{"numeric": [">", 0, ">", 1]}]), "Bad numeric range operator: >"),
        (json!([{"numeric": [">", 0, 1]}]), "Bad value in numeric range: 1"),
        (json!([{"numeric": [">", 0, "<"]}]), "Value of < must be numeric"),
        (json!([{"numeric": [">", 0, "<", 1, "<"]}]), "Too many terms in numeric range expression"),
        (json!([{"numeric": [">=", 5, "<=", 5]}]), "Bottom must be less than top"),
        (
            json!([{"numeric": ["=", 9_007_199_254_740_993_i64]}]),
            "Cannot compare number : 9007199254740993",
        ),
        (
            json!([{"anything-but": null}]),
            "Value of anything-but must be an array or single string/number value.",
        ),
        (
            json!([{"anything-but": ["a", true]}]),
            "Inside anything but list, start|null|boolean is not supported.",
        ),
        (json!([{"anything-but": ["a", 1]}]), mixed),
        (json!([{"anything-but": []}]), mixed),
        (
            json!([{"anything-but": {"numeric": [">", 1]}}]),
            "Unsupported anything-but pattern: numeric",
        ),
    ] {
        assert_eq!(refusal(json!({"detail": {"x": value}})), expected);
    }
    assert_eq!(refusal(json!([])), "Filter is not an object");
    assert_eq!(refusal(json!({})), "Empty objects are not allowed");
}

#[test]
fn operators_that_come_later_are_refused_by_name() {
    for (value, operator) in [
        (json!([{"suffix": "a"}]), "suffix"),
        (json!([{"wildcard": "a*"}]), "wildcard"),
        (json!([{"equals-ignore-case": "a"}]), "equals-ignore-case"),
        (json!([{"cidr": "10.0.0.0/24"}]), "cidr"),
        (json!([{"prefix": {"equals-ignore-case": "a"}}]), "prefix with equals-ignore-case"),
        (json!([{"anything-but": {"suffix": "a"}}]), "anything-but with suffix"),
        (json!({"$or": [{"y": [1]}, {"z": [2]}]}), "$or"),
    ] {
        let expected = format!("event pattern operator `{operator}` is not supported yet");
        assert_eq!(refusal(json!({"detail": {"x": value}})), expected);
    }
}

#[test]
fn a_checker_reads_exact_strings_and_what_they_exclude() {
    let pattern = compiled(json!({
        "source": ["freeCodeCamp"],
        "detail": {
            "data": {"eventType": ["INSERT", "UPDATE"], "n": ["a", 1], "deep": {"x": ["y"]}},
            "status": [{"anything-but": "DONE"}],
            "gone": {"z": [{"exists": false}]},
        },
    }));
    let event_types = Some(vec!["INSERT".to_string(), "UPDATE".to_string()]);
    assert_eq!(pattern.exact_strings(&["detail", "data", "eventType"]), event_types);
    assert_eq!(pattern.exact_strings(&["source"]), Some(vec!["freeCodeCamp".to_string()]));
    for path in [vec!["detail", "data", "n"], vec!["detail", "data"], vec!["detail", "status"]] {
        assert_eq!(pattern.exact_strings(&path), None, "{path:?}");
    }
    for (path, value, expected) in [
        (vec!["detail", "data", "eventType"], "REMOVE", true),
        (vec!["detail", "data", "eventType"], "INSERT", false),
        (vec!["detail", "status"], "DONE", true),
        (vec!["detail", "status"], "PENDING", false),
        (vec!["detail", "data", "deep"], "y", true),
        (vec!["detail", "gone"], "anything", false),
        (vec!["detail", "gone", "z"], "anything", true),
        (vec!["detail", "status", "inner"], "PENDING", true),
        (vec!["detail", "unasked"], "anything", false),
    ] {
        assert_eq!(pattern.excludes(&path, value), expected, "{path:?} {value}");
    }
}

#[test]
fn contradictions_with_the_envelope_are_told() {
    for impossible in [
        json!({"source": [{"exists": false}]}),
        json!({"detail-type": [5, null]}),
        json!({"source": {"name": ["x"]}}),
        json!({"resources": ["arn"]}),
        json!({"region": ["us-east-1"]}),
        json!({"detail": {"a": [1]}, "time": [{"prefix": "2022"}]}),
    ] {
        assert!(compiled(impossible.clone()).contradiction().is_some(), "{impossible}");
    }
    for possible in [
        json!({"source": [{"anything-but": "a"}], "detail-type": ["a", {"exists": false}]}),
        json!({"region": ["local"], "replay-name": [{"exists": false}]}),
        json!({"source": {"name": [{"exists": false}]}}),
        json!({"detail": {"a": [{"exists": false}], "a.b": [1]}}),
    ] {
        assert_eq!(compiled(possible.clone()).contradiction(), None, "{possible}");
    }
}

fn ours(source: Value, types: Value, data: Value) -> Value {
    json!({"source": source, "detail-type": types, "detail": {"data": data}})
}

fn index_patterns() -> Vec<CompiledPattern> {
    let (fcc, cdc) = (json!(["freeCodeCamp"]), json!(["cdcEvent"]));
    [
        ours(fcc.clone(), cdc.clone(), json!({"eventType": ["INSERT"]})),
        ours(fcc.clone(), cdc.clone(), json!({"eventType": ["UPDATE", "INSERT"]})),
        ours(fcc.clone(), cdc.clone(), json!({"eventType": ["REMOVE"], "n": [1]})),
        ours(fcc.clone(), json!(["cdcEvent", "other"]), json!({"n": [{"numeric": [">", 0]}]})),
        ours(json!(["x", "freeCodeCamp"]), json!([{"prefix": "cdc"}]), json!({"n": [1, 2]})),
        ours(json!(["somebody"]), cdc.clone(), json!({"eventType": ["INSERT"]})),
        json!({"detail-type": ["cdcEvent"]}),
        json!({"detail-type": ["cdcEvent"], "detail": {"data": {"n": [2]}}}),
        json!({"detail": {"data": {"eventType": [{"exists": false}]}}}),
        json!({"source": [{"anything-but": "freeCodeCamp"}]}),
        ours(fcc, cdc, json!({"eventType": ["INSERT"], "n": ["INSERT"]})),
    ]
    .map(compiled)
    .into()
}

#[test]
fn the_index_finds_what_trying_every_pattern_finds_in_ascending_order() {
    let index = RuleIndex::new(index_patterns());
    let details = [
        json!({"data": {"eventType": "INSERT", "n": 1}}),
        json!({"data": {"eventType": "REMOVE", "n": 1}}),
        json!({"data": {"eventType": "UPDATE", "n": 2}}),
        json!({"data": {"eventType": ["INSERT", "UPDATE", "INSERT"], "n": [2, "INSERT"]}}),
        json!({"data": [{"eventType": "INSERT"}, {"n": 1}, {"eventType": "REMOVE", "n": 1}]}),
        json!({"data.eventType": "INSERT", "data": {"eventType": "none", "n": "INSERT"}}),
        json!({"data": {"eventType": 5}}),
        json!({}),
    ];
    let mut matched = 0;
    for (source, detail_type) in
        [("freeCodeCamp", "cdcEvent"), ("somebody", "cdcEvent"), ("x", "cdc"), ("y", "other")]
    {
        for detail in details.clone().map(doc) {
            let event = EventView { source, detail_type, detail: detail.view().into() };
            // What was found before stays, even when it looks like a repetition.
            let (mut expected, mut found) = (vec![9, 0], vec![9, 0]);
            let patterns = index_patterns().into_iter().enumerate();
            expected.extend(patterns.filter(|(_, p)| p.matches(&event)).map(|(rule, _)| rule));
            index.matching(&event, &mut found);
            assert_eq!(found, expected, "{source} {detail_type} {detail:?}");
            matched += found.len() - 2;
        }
    }
    assert!(matched > details.len(), "the table exercises matches, not only their absence");
}

#[test]
fn an_index_over_one_shared_shape_tells_source_type_and_one_leaf_apart() {
    let rules = ["INSERT", "UPDATE", "REMOVE"].map(|event_type| {
        compiled(json!({
            "source": ["freeCodeCamp"],
            "detail-type": ["cdcEvent"],
            "detail": {"data": {"eventType": [event_type]}},
        }))
    });
    let mut bucket = &RuleIndex::new(rules.into()).root;
    for (name, text) in [
        ("source", "freeCodeCamp"),
        ("detail-type", "cdcEvent"),
        ("detail.data.eventType", "UPDATE"),
    ] {
        let Bucket::Split { name: split, by_text, .. } = bucket else {
            panic!("no split by {name}")
        };
        assert_eq!(split.joined, name);
        bucket = &by_text[text];
    }
    assert!(matches!(bucket, Bucket::Rules(rules) if rules.len() == 1 && rules[0].rule == 1));
}
