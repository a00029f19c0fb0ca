//! Any JSON document that Python can write, in every place that we only carry, leaves as it came.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::{ImageBuild, ImageUpload, Node, NodeRequest, PoolComponent, Timestamp};

/// A text as `json.dumps` writes it: ASCII, with escapes; lone surrogates too.
fn text() -> impl Strategy<Value = String> {
    let escape = prop_oneof![
        "[ !#-\\[\\]-~]",
        proptest::sample::select(vec!["\\\"", "\\\\", "\\n", "\\r", "\\t", "\\b", "\\f"]).prop_map(str::to_owned),
        any::<u16>().prop_map(|unit| format!("\\u{unit:04x}")),
        Just("\\ud83d\\ude00".to_owned()),
        Just("\\ud800".to_owned()),
    ];
    prop::collection::vec(escape, 0..8).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

/// A document as `json.dumps` may write it.
fn document() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        proptest::sample::select(vec![
            "null",
            "true",
            "false",
            "NaN",
            "Infinity",
            "-Infinity",
            "0",
            "-0.0",
            "1e-05",
            "1e+16",
            "5e-324",
            "1.7976931348623157e+308",
            "340282366920938463463374607431768211455",
        ])
        .prop_map(str::to_owned),
        "-?[1-9][0-9]{0,60}",
        any::<f64>().prop_map(python_float),
        text(),
    ];
    leaf.prop_recursive(6, 48, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(", "))),
            // Also two members of one name: `json.dumps({1: "a", "1": "b"})`.
            prop::collection::vec((text(), inner), 0..5).prop_map(|members| {
                let members: Vec<_> = members.into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
                format!("{{{}}}", members.join(", "))
            }),
        ]
    })
}

const REQUEST: &str = r#""state": "requested", "node_types": ["a"], "state_time": 1.5"#;

/// The records of each kind as they are written after reading, with these members beside what every record needs.
fn carried(record: &str, members: &str) -> Vec<(&'static str, String)> {
    let data = format!("{{{record}, {members}}}");
    let bytes = data.as_bytes();
    let written = [
        ("request", NodeRequest::read("200-0000000001".into(), bytes).map(|(read, _)| read.write())),
        ("node", Node::read("0000000001".into(), bytes).map(|(read, _)| read.write())),
        ("build", ImageBuild::read("i".into(), "b".into(), bytes).map(|(read, _)| read.write())),
        ("upload", ImageUpload::read("i".into(), "b".into(), "p".into(), "1".into(), bytes).map(|(r, _)| r.write())),
        ("component", PoolComponent::read("h0000000000", bytes).map(|(read, _)| read.write())),
    ];
    // A state that this kind of record does not have is an error, and nothing is written.
    let usable = written.into_iter().filter_map(|(kind, bytes)| Some((kind, String::from_utf8(bytes.ok()?).unwrap())));
    usable.collect()
}

fn value_of(document: &str, key: &str) -> Option<String> {
    Object::parse(document).unwrap().unwrap().get(key).map(ToString::to_string)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_document_of_pythons_leaves_every_record_as_it_came(value in document(), name in text()) {
        for state in ["requested", "ready"] {
            let record = REQUEST.replace("requested", state);
            let unknown = format!("\"x{}", &name[1..]);
            let keys = [
                "\"requestor_data\"", "\"driver_data\"", "\"user_data\"", "\"attributes\"", "\"node_properties\"",
                "\"external_id\"", "\"resources\"", "\"connection_port\"", "\"hold_expiration\"", "\"created_time\"",
                "\"relative_priority\"", "\"declined_by\"", "\"formats\"", "\"supported_labels\"", &unknown,
            ];
            let members = keys.map(|key| format!("{key}: {value}")).join(", ");
            for (kind, written) in carried(&record, &members) {
                let written = Object::parse(&written).unwrap().unwrap();
                for key in keys {
                    let there = written.get(&decode(key)).map(Json::as_str);
                    prop_assert_eq!(there, Some(&*value), "{} of a {}", key, kind);
                }
            }
        }
    }

    #[test]
    fn a_view_is_what_serde_makes_of_it_where_that_can_hold_it(text in "\\PC*", number in any::<i64>(), float in -1e300..1e300) {
        let value = json!({"t": text, "n": [number, float, null, true, {}]});
        prop_assert_eq!(Json::of(&value).view(), value);
    }

    #[test]
    fn no_text_makes_the_scanner_panic(text in "[\\[\\]{}\":, \\\\u0-9eE.+a-fNInulltrue-]{0,40}") {
        // Python reads -0 as the integer 0, serde_json as the float -0.0.
        prop_assume!(!text.contains("-0"));
        let ours = Json::parse(&text);
        if let Ok(theirs) = serde_json::from_str::<Value>(&text) {
            prop_assert_eq!(ours.map(|json| json.view()), Ok(theirs));
        }
    }
}

#[test]
fn minus_zero_is_the_integer_that_python_reads() {
    assert_eq!(Json::parse("-0").unwrap().view(), json!(0));
    assert_eq!(Json::parse("-0.0").unwrap().view(), json!(-0.0));
}

proptest! {
    #[test]
    fn an_object_is_refused_where_its_text_is(text in "[\\[\\]{}\":, a\\\\0-9+-]{0,20}", inner in document()) {
        for text in [text.clone(), format!("{{{text}"), format!("{{\"a\": {inner}{text}"), format!("{{\"a\": {inner}}}{text}")] {
            prop_assert_eq!(Object::parse(&text).err(), Json::parse(&text).err());
        }
    }
}

#[test]
fn names_are_compared_as_they_are_read() {
    let object =
        Object::parse(r#"{"st\u0061te": 1, "state_time": 2, "sta": 3, "ü\n": 4, "\ud800": 5}"#).unwrap().unwrap();
    let number = |name: &str| object.get(name).map(Json::as_str);
    assert_eq!(number("state"), Some("1"));
    assert_eq!(number("state_time"), Some("2"));
    assert_eq!(number("sta"), Some("3"));
    assert_eq!(number("\u{fc}\n"), Some("4"));
    assert_eq!(number("\u{fffd}"), Some("5"));
    for other in ["", "st", "stat", "st\\u0061te", "state_times", "\u{fc}"] {
        assert_eq!(number(other), None, "{other}");
    }
}

#[test]
fn of_two_members_of_one_name_the_last_one_counts_also_where_it_is_set() {
    let object = |text: &str| Object::parse(text).unwrap().unwrap();
    let mut both = object(r#"{"a": 1, "\u0061": 2, "b": 3}"#);
    assert_eq!(both.get("a").map(Json::as_str), Some("2"));
    both.extend(object(r#"{"a": 4, "a": 5, "c": 6}"#));
    assert_eq!(both.get("a").map(Json::as_str), Some("5"));
    assert_eq!(both.get("c").map(Json::as_str), Some("6"));
    both.set("a", Json::of(&7));
    assert_eq!(both.take("a").as_ref().map(Json::as_str), Some("7"));
    assert_eq!(both.get("a"), None);
}

#[test]
fn names_of_ours_are_written_as_python_writes_them() {
    for name in ["", "state", "a b~", "\"", "a\\b", "\u{7f}", "tab\t", "\u{fc}", "\u{1f600}"] {
        let object = Object::default().with(name, &1);
        assert_eq!(object.text(), format!("{{{}: 1}}", String::from_utf8_lossy(&to_python_json(name))));
        assert_eq!(object.get(name).map(Json::as_str), Some("1"));
    }
}

#[test]
fn what_is_no_json_is_refused_where_it_ends_to_be() {
    for (text, at) in [
        ("", 0),
        ("{", 1),
        ("[1,]", 3),
        ("{\"a\"}", 4),
        ("{\"a\": }", 6),
        ("01", 1),
        ("1.", 1),
        ("-", 0),
        ("nul", 0),
        ("\"a", 2),
        ("\"\\x\"", 1),
        ("\"\\u12\"", 1),
        ("\"\n\"", 1),
        ("[1 2]", 3),
        ("1 2", 2),
        ("[", 1),
        ("]", 0),
    ] {
        assert_eq!(Json::parse(text).unwrap_err().at, at, "{text}");
    }
}

/// It would end the process if anything here recursed.
#[test]
fn a_record_of_a_hundred_thousand_brackets_is_carried() {
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    for (_, written) in carried(REQUEST, &format!("\"requestor_data\": {deep}")) {
        assert!(written.contains(&deep));
    }
    assert!(Json::parse(&deep).unwrap().view().is_array());
}

#[test]
fn a_time_that_was_changed_is_written_and_what_was_not_stays() {
    let data =
        br#"{"state": "ready", "state_time": 1e9, "created_time": 1760000000.1234567, "resources": {"cores": 2.0},
        "driver_data": {"id": 340282366920938463463374607431768211455}, "slot": "3"}"#;
    let (mut node, oddities) = Node::read("1".into(), data).unwrap();
    assert!(oddities.is_empty(), "{oddities:?}");
    node.set_state(node.state, Timestamp::from(2e9_f32));
    let written = String::from_utf8(node.write()).unwrap();
    for (key, expected) in [
        ("state_time", "2000000000.0"),
        ("created_time", "1760000000.1234567"),
        ("resources", "{\"cores\": 2.0}"),
        ("driver_data", "{\"id\": 340282366920938463463374607431768211455}"),
        ("slot", "\"3\""),
        ("host_keys", "[]"),
    ] {
        assert_eq!(value_of(&written, key).as_deref(), Some(expected), "{key}");
    }
    node.driver_data = Some(json!({"id": 1}).into());
    let written = String::from_utf8(node.write()).unwrap();
    assert_eq!(value_of(&written, "driver_data").as_deref(), Some("{\"id\": 1}"));
}

#[test]
fn floats_look_like_pythons() {
    for (float, expected) in [
        (1_760_000_000.25, "1760000000.25"),
        (2.0, "2.0"),
        (-0.0, "-0.0"),
        (1e16, "1e+16"),
        (1e15, "1000000000000000.0"),
        (1.5e-5, "1.5e-05"),
        (1e-4, "0.0001"),
        (5e-324, "5e-324"),
        (f64::MAX, "1.7976931348623157e+308"),
        (f64::NAN, "NaN"),
        (f64::NEG_INFINITY, "-Infinity"),
    ] {
        assert_eq!(python_float(float), expected);
    }
}

#[test]
fn documents_look_like_pythons() {
    let value = json!({"a": [1, "ü😀\n\"\u{7f}", null, true], "b": {"c": 1_760_000_000.25, "d": 2.0}});
    assert_eq!(
        Json::of(&value).as_str(),
        r#"{"a": [1, "\u00fc\ud83d\ude00\n\"\u007f", null, true], "b": {"c": 1760000000.25, "d": 2.0}}"#
    );
}

/// Writes requests with documents that Python's own random numbers have chosen; then compares what came of them.
const PYTHON: &str = r"
import json, random, struct, sys
random.seed(int(sys.argv[1]))
def text():
    return ''.join(chr(random.choice([random.randrange(128), random.randrange(0x110000), 0xd800 + random.randrange(0x800)]))
                   for _ in range(random.randrange(6)))
def value(depth):
    kind = random.randrange(9 if depth else 6)
    if kind == 0: return random.choice([None, True, False, float('nan'), float('inf'), -float('inf'), -0.0, 1e16, 1e-7])
    if kind == 1: return random.getrandbits(random.choice([8, 63, 64, 65, 128, 1000])) * random.choice([1, -1])
    if kind == 2: return struct.unpack('d', random.randbytes(8))[0]
    if kind == 3: return random.random() * 10 ** random.randrange(-20, 20)
    if kind < 6: return text()
    if kind == 6: return [value(depth - 1) for _ in range(random.randrange(4))]
    return {random.choice([text(), 1, '1', 2.5, None]): value(depth - 1) for _ in range(random.randrange(4))}
def document():
    return {'state': 'ready', 'state_time': random.random() * 2e9, 'created_time': random.random() * 2e9,
            'requestor_data': value(6), 'driver_data': value(6), 'x' + text(): value(6), 'attributes': value(6)}
sent = [json.dumps(document()) for _ in range(500)]
print('\n'.join(sent), flush=True)
for before, after in zip(sent, sys.stdin):
    before, after = json.loads(before), json.loads(after)
    for key in before:
        assert repr(before[key]) == repr(after[key]), (key, before[key], after[key])
print('equal')
";

/// Needs any Python: set `NODEPOOL_TEST_PYTHON` to it.
#[test]
fn what_python_has_written_it_reads_again() {
    let Ok(python) = std::env::var("NODEPOOL_TEST_PYTHON") else {
        eprintln!("skipped: NODEPOOL_TEST_PYTHON names no Python");
        return;
    };
    let mut child =
        Command::new(python).args(["-c", PYTHON, "12"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let sent: Vec<String> = lines.by_ref().take(500).map(Result::unwrap).collect();
    let mut to = child.stdin.take().unwrap();
    for document in sent {
        let (node, _) = Node::read("0000000001".into(), document.as_bytes()).unwrap();
        to.write_all(&node.write()).unwrap();
        to.write_all(b"\n").unwrap();
    }
    drop(to);
    assert_eq!(lines.next().unwrap().unwrap(), "equal");
    assert!(child.wait().unwrap().success());
}
