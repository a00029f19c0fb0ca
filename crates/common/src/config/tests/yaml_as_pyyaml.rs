//! The tree is what PyYAML makes of the text.

use proptest::prelude::*;

use super::{
    super::yaml::{
        Meaning,
        Meaning::{BigInt, Bool, Date, Float, Int, Null, Text},
        Node, Value, parse,
    },
    check_bytes, environment, load_bytes,
};

/// What PyYAML 6 makes of each as a plain scalar (`yaml.SafeLoader('').resolve` and `construct_object`).
#[allow(clippy::unreadable_literal, clippy::excessive_precision)]
fn table() -> Vec<(&'static str, Meaning)> {
    vec![
        ("yes", Bool(true)),
        ("Yes", Bool(true)),
        ("YES", Bool(true)),
        ("yEs", Text),
        ("no", Bool(false)),
        ("No", Bool(false)),
        ("NO", Bool(false)),
        ("on", Bool(true)),
        ("On", Bool(true)),
        ("ON", Bool(true)),
        ("oN", Text),
        ("off", Bool(false)),
        ("OFF", Bool(false)),
        ("true", Bool(true)),
        ("True", Bool(true)),
        ("TRUE", Bool(true)),
        ("tRUE", Text),
        ("false", Bool(false)),
        ("False", Bool(false)),
        ("FALSE", Bool(false)),
        ("y", Text),
        ("Y", Text),
        ("n", Text),
        ("N", Text),
        ("~", Null),
        ("null", Null),
        ("Null", Null),
        ("NULL", Null),
        ("nULL", Text),
        ("Nil", Text),
        ("none", Text),
        ("0", Int(0)),
        ("-0", Int(0)),
        ("+0", Int(0)),
        ("00", Int(0)),
        ("07", Int(7)),
        ("08", Text),
        ("010", Int(8)),
        ("-010", Int(-8)),
        ("+010", Int(8)),
        ("0o10", Text),
        ("0x1F", Int(31)),
        ("-0xff", Int(-255)),
        ("0x", Text),
        ("0xg", Text),
        ("0b101", Int(5)),
        ("-0b11", Int(-3)),
        ("0b2", Text),
        ("1_000", Int(1000)),
        ("1__0_", Int(10)),
        ("_1", Text),
        ("-1", Int(-1)),
        ("+1", Int(1)),
        ("+", Text),
        ("1:30", Int(90)),
        ("1:60", Text),
        ("-1:30", Int(-90)),
        ("190:20:30", Int(685230)),
        ("0:30", Text),
        ("01:30", Text),
        ("12:5", Int(725)),
        ("21.04", Float(21.04)),
        ("21.10", Float(21.1)),
        ("21.", Float(21.0)),
        (".5", Float(0.5)),
        ("-.5", Text),
        ("+.5", Text),
        ("1.5e3", Text),
        ("1.5e+3", Float(1500.0)),
        ("1.5E-3", Float(0.0015)),
        ("1e3", Text),
        ("1e+3", Text),
        ("1.e+3", Float(1000.0)),
        (".5e+1", Float(5.0)),
        ("1_0.5_1", Float(10.51)),
        ("1:30.5", Float(90.5)),
        ("-1:30.25", Float(-90.25)),
        ("1:30.", Float(90.0)),
        ("0.0", Float(0.0)),
        ("-0.0", Float(-0.0)),
        (".inf", Float(f64::INFINITY)),
        ("-.inf", Float(f64::NEG_INFINITY)),
        ("+.INF", Float(f64::INFINITY)),
        (".Inf", Float(f64::INFINITY)),
        (".iNF", Text),
        (".nan", Float(f64::NAN)),
        ("-.nan", Text),
        (".NaN", Float(f64::NAN)),
        (".NAN", Float(f64::NAN)),
        ("2026-01-31", Date),
        ("2026-1-31", Text),
        ("2026-01-31T10:00:00Z", Date),
        ("2026-1-3t1:02:03.5+02:00", Date),
        ("2026-01-31T10:00Z", Text),
        ("2026-01-31T10:00:00.5-5", Date),
        ("10.0.0.1", Text),
        ("1.2.3", Text),
        ("5986", Int(5986)),
        ("9223372036854775807", Int(9223372036854775807)),
        ("9223372036854775808", BigInt(9.223372036854776e+18)),
        ("0x8000000000000000", BigInt(9.223372036854776e+18)),
        ("-02000000000000000000000", BigInt(-1.8446744073709552e+19)),
        ("1:00:00:00:00:00:00:00:00:00:00:00:00", BigInt(2.176782336e+21)),
        ("-9223372036854775808", Int(-9223372036854775808)),
        ("trusty", Text),
        ("22.04-lts", Text),
        ("=", Text),
        ("a<<", Text),
        ("2026-01-31 10:00:00", Date),
        ("2026-01-31  10:00:00 Z", Date),
        ("1 2", Text),
        ("1", Int(1)),
    ]
}

fn tree(text: &str) -> std::rc::Rc<Node> {
    parse(text).unwrap_or_else(|problem| panic!("{problem:?}")).root.unwrap_or_else(|| panic!("no document"))
}

/// The tree as JSON-like text, places left out.
fn show(node: &Node) -> String {
    match &node.value {
        Value::Scalar(Text, text) => format!("{text:?}"),
        Value::Scalar(meaning, _) => format!("{meaning:?}"),
        Value::List(items) => format!("[{}]", items.iter().map(|i| show(i)).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| format!("{}: {}", show(key), show(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

fn shown(text: &str) -> String {
    show(&tree(text))
}

fn problem(text: &str) -> String {
    match parse(text) {
        Ok(document) => panic!("parsed: {document:?}"),
        Err(problem) => format!("{}:{} {}", problem.at.line, problem.at.column, problem.message),
    }
}

#[test]
fn plain_scalars_mean_what_pyyaml_makes_of_them() {
    let nan = |meaning: &Meaning| matches!(meaning, Float(value) if value.is_nan());
    for (text, expected) in table() {
        let found = shown(&format!("- {text}\n"));
        let as_list = format!("[{}]", if expected == Text { format!("{text:?}") } else { format!("{expected:?}") });
        assert!(found == as_list || nan(&expected) && found == "[Float(NaN)]", "{text}: {found}, PyYAML {expected:?}");
    }
}

#[test]
fn quotes_and_blocks_make_text_of_anything() {
    assert_eq!(shown("['1', \"true\", '', !!str 5, ! 6]"), r#"["1", "true", "", "5", "6"]"#);
    assert_eq!(shown("a: |\n  10\nb: >-\n  x\n  y\n"), r#"{"a": "10\n", "b": "x y"}"#);
}

#[test]
fn explicit_tags_are_honoured_and_unknown_ones_refused() {
    assert_eq!(shown("[!!int '5', !!float 1, !!bool 'yes', !!null x]"), "[Int(5), Float(1.0), Bool(true), Null]");
    assert!(problem("a: !vault x").contains("begins with `!vault`, which YAML takes for a tag that is unknown"));
    assert!(problem("a: !!int x").contains("`x` is no value of the tag `!!int`"));
    assert!(problem("a: !!python/object:x.y {}").contains("begins with `!!python/object:x.y`"));
}

#[test]
fn nothing_is_null() {
    assert_eq!(shown("a:\nb: ~\nc:\n  -\n"), r#"{"a": Null, "b": Null, "c": [Null]}"#);
    for empty in ["", "\n\n", "# only a comment\n", "\u{feff}"] {
        assert!(parse(empty).is_ok_and(|document| document.root.is_none()), "{empty:?}");
    }
    assert!(tree("---\n").is_null());
}

#[test]
fn aliases_stand_for_their_anchors() {
    assert_eq!(shown("a: &x [1, 2]\nb: *x\n"), r#"{"a": [Int(1), Int(2)], "b": [Int(1), Int(2)]}"#);
    assert!(problem("a: *nowhere\n").contains("this is not YAML"));
    assert!(problem("a: &x [*x]\n").contains("within what it stands for"));
}

#[test]
fn merged_keys_yield_to_own_keys_wherever_those_stand() {
    let base = "base: &b {x: 1, y: 1}\nmore: &m {y: 2, z: 2}\n";
    let get = |yaml: &str| show(tree(&format!("{base}{yaml}")).get("c").expect("c"));
    assert_eq!(get("c:\n  y: 9\n  <<: *b\n"), r#"{"x": Int(1), "y": Int(9)}"#);
    assert_eq!(get("c:\n  <<: [*b, *m]\n"), r#"{"y": Int(1), "z": Int(2), "x": Int(1)}"#);
    assert_eq!(get("c:\n  '<<': 5\n"), r#"{"<<": Int(5)}"#);
    assert!(problem("a:\n  <<: 5\n").contains("merges a mapping"));
}

#[test]
fn of_equal_keys_the_last_wins_and_both_places_are_told() {
    let document = parse("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n").expect("YAML");
    assert_eq!(show(document.root.as_deref().expect("root")), r#"{"a": Int(3), "b": {"c": Int(2)}}"#);
    let told: Vec<_> = document.duplicates.iter().map(|d| (d.key.as_str(), d.first.line, d.last.line)).collect();
    assert_eq!(told, [("c", 3, 4), ("a", 1, 5)]);
    assert!(parse("1: a\n'1': b\n").expect("YAML").duplicates.is_empty(), "an int and a text are two keys");
    assert_eq!(parse("1: a\n01: b\n").expect("YAML").duplicates.len(), 1);
}

#[test]
fn a_second_document_and_a_collection_as_a_key_are_refused() {
    assert!(problem("a: 1\n---\nb: 2\n").starts_with("2:1 a second YAML document"));
    assert!(problem("? [a]\n: b\n").contains("cannot be a key"));
    assert_eq!(shown("---\na: 1\n...\n"), r#"{"a": Int(1)}"#);
}

#[test]
fn places_are_those_of_the_values() {
    let root = tree("a:\n  - name: x\n    port:   5\n");
    let Value::List(items) = &root.get("a").expect("a").value else { panic!("no list") };
    assert_eq!((items[0].at.line, items[0].at.column), (2, 5));
    let port = items[0].get("port").expect("port");
    assert_eq!((port.at.line, port.at.column), (3, 13));
}

#[test]
fn a_few_lines_cannot_expand_without_bounds() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let alias = format!("*a{}", level - 1);
        bomb.extend([format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "))]);
    }
    assert!(problem(&bomb).contains("with its aliases expanded"));
    let mut merges = String::from("a0: &a0 {k: v}\n");
    for level in 1..40 {
        merges.extend([format!("a{level}: &a{level}\n  <<: [*a{0}, *a{0}]\n  k{level}: *a{0}\n", level - 1)]);
    }
    assert!(problem(&merges).contains("with its aliases expanded"));
    let deep = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
    assert!(problem(&deep).contains("levels"));
}

/// Bytes made of what a configuration is made of: these get further than noise.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<Vec<u8>>(),
        prop::sample::select(vec![
            "labels:\n",
            "providers:\n",
            "diskimages:\n",
            "  - ",
            "name: ",
            "x\n",
            "pools:\n",
            "    ",
            "cloud: c\n",
            "<<: *a\n",
            "&a ",
            "*a ",
            "[",
            "]",
            "{",
            "}",
            "- ",
            ": ",
            "? ",
            "| \n",
            "!!int ",
            "'",
            "\"",
            "%(NODEPOOL_A)",
            "---\n",
            "zookeeper-servers:\n",
            "zookeeper-timeout: ",
            "1:30\n",
            "-.inf\n",
            "1e999\n",
            "max-servers: ",
            "min-ready: ",
            "rate: ",
            "1.0e+300\n",
            "parent: x\n",
            "tenant-resource-limits:\n",
            "node-attributes: ",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_the_loader_panic(main in pieces(), secure in pieces(), value in ".*") {
        let env = environment(&[("NODEPOOL_A", &value)]);
        let _ = load_bytes(&main, Some(&secure), &env);
        let _ = check_bytes(&main, &env);
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_loader_panic(cut in 0_usize..700, at in 0_usize..700, with in pieces()) {
        let mut bytes = super::SMALL.as_bytes().to_vec();
        bytes.truncate(cut);
        let at = at.min(bytes.len());
        bytes.splice(at..at, with);
        let _ = load_bytes(&bytes, None, &environment(&[]));
        let _ = check_bytes(&bytes, &environment(&[]));
    }
}
